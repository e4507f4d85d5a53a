"""Softmax attention on NVIDIA GPUs by the Triton kernel `mha` of JAX.

It leaves out the blocks above the diagonal. cuDNN's attention, as `jax.nn.dot_product_attention` offers it, does not
know several users in a row: it would read the mask as an array [R, 1, L, L].

Letters: R rows, L session slots, N heads, H head width.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas.ops.gpu import attention
from jaxtyping import Array, Float, Int

from sessionrec_jax.model.fused.over_heads import over_heads

BLOCK = 128
"""Slots of a block at most. The rows are filled up to a multiple of it."""
_BLOCK_BYTES = 2**15
"""The most bytes of a block of queries. With twice as many the kernel's copies do not fit into the memory of an H100's
multiprocessor."""
_BACKWARD_BLOCK = 32
"""The default of the kernel."""
_LEAST_WIDTH = 16
"""The least width of a product of the kernel."""


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
    width = q_RLNH.shape[3]
    filled = ((0, 0), (0, -slots % BLOCK))
    features = (0, max(0, _LEAST_WIDTH - width))
    block = min(BLOCK, _BLOCK_BYTES // (q_RLNH.dtype.itemsize * pl.next_power_of_2(width)))
    sizes = attention.BlockSizes(block, block, *[_BACKWARD_BLOCK] * 4)

    def on_device(x):
        *arrays, user_RL = x
        arrays = [jnp.pad(x_RLNH, (*filled, (0, 0), features)) for x_RLNH in arrays]
        out = attention.mha(*arrays, jnp.pad(user_RL, filled), sm_scale=scale, causal=True, block_sizes=sizes)
        return out[:, :slots, :, :width]

    arguments = (q_RLNH, k_RLNH, v_RLNH, user_RL)
    return over_heads(on_device, arguments, axes=(2, 2, 2, None), out_axes=2, heads=q_RLNH.shape[2])
