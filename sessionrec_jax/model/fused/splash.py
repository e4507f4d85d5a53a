"""Softmax attention on TPUs by the kernel `splash_attention` of JAX.

It leaves out the blocks above the diagonal. Blocks whose users differ are multiplied and masked.

Letters: R rows, L session slots, N heads, H head width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jaxtyping import Array, Float, Int

from sessionrec_jax.model.fused.over_heads import over_heads

BLOCK = 512
"""Slots of a block at most. Not tuned: no TPU was at hand."""
LANES = 128
"""The kernel wants a multiple of this as the slots of a block."""


def splash_attention(
    q_RLNH: Float[Array, "R L N H"],
    k_RLNH: Float[Array, "R L N H"],
    v_RLNH: Float[Array, "R L N H"],
    user_RL: Int[Array, "R L"],
    *,
    scale: float,
) -> Float[Array, "R L N H"]:
    """Returns the softmax attention of each session over the sessions of its user up to its own."""
    slots = q_RLNH.shape[1]
    block = min(BLOCK, -(-slots // LANES) * LANES)
    extra = -slots % block

    def on_device(x):
        q_RLNH, k_RLNH, v_RLNH, user_RL = x
        filled = ((0, 0), (0, extra))
        q, k, v = (jnp.swapaxes(jnp.pad(part, (*filled, (0, 0), (0, 0))), 1, 2) for part in (q_RLNH, k_RLNH, v_RLNH))
        user_RL = jnp.pad(user_RL, filled)
        sizes = kernel.BlockSizes(block, block, block, block, block, block, block, block)
        mask = masks.MultiHeadMask([masks.CausalMask((slots + extra,) * 2)] * q.shape[1])
        of_row = kernel.make_splash_mha(mask, block_sizes=sizes, head_shards=1, q_seq_shards=1)
        out_RNLH = jax.vmap(of_row)(q, k, v, kernel.SegmentIds(user_RL, user_RL))
        return jnp.swapaxes(out_RNLH[:, :, :slots], 1, 2)

    arguments = (q_RLNH * scale, k_RLNH, v_RLNH, user_RL)
    return over_heads(on_device, arguments, axes=(2, 2, 2, None), out_axes=2, heads=q_RLNH.shape[2])
