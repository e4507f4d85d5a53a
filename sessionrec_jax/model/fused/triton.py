"""Softmax attention on NVIDIA GPUs by the Triton kernel `mha` of JAX.

It leaves out the blocks above the diagonal. cuDNN's attention, as `jax.nn.dot_product_attention` offers it, does not
know several users in a row: it would read the mask as an array [R, 1, L, L].

Letters: R rows, L session slots, N heads, H head width.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax.experimental.pallas.ops.gpu import attention
from jaxtyping import Array, Float, Int

from sessionrec_jax.model.fused.over_heads import over_heads

BLOCK = 128
"""The rows are filled up to a multiple of this. The kernel's own blocks have 128 or 32 slots."""


def triton_attention(
    q_RLNH: Float[Array, "R L N H"],
    k_RLNH: Float[Array, "R L N H"],
    v_RLNH: Float[Array, "R L N H"],
    user_RL: Int[Array, "R L"],
    *,
    scale: float,
) -> Float[Array, "R L N H"]:
    """Returns the softmax attention of each session over the sessions of its user up to its own."""
    slots = q_RLNH.shape[1]
    filled = ((0, 0), (0, -slots % BLOCK))

    def on_device(x):
        *arrays, user_RL = x
        arrays = [jnp.pad(x_RLNH, (*filled, (0, 0), (0, 0))) for x_RLNH in arrays]
        segments = jnp.pad(user_RL, filled)
        return attention.mha(*arrays, segments, sm_scale=scale, causal=True)[:, :slots]

    arguments = (q_RLNH, k_RLNH, v_RLNH, user_RL)
    return over_heads(on_device, arguments, axes=(2, 2, 2, None), out_axes=2, heads=q_RLNH.shape[2])
