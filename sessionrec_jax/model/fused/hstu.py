"""HSTU's attention by kernels for TPUs and NVIDIA GPUs, with its gradient; each device computes its own heads.

Letters: R rows, L session slots, N heads, H head width, P positions, B buckets of time, K blocks of a row, C slots of a
block.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from sessionrec_jax.model.fused import hstu_gpu, hstu_kernel
from sessionrec_jax.model.fused.bias import BiasTables
from sessionrec_jax.model.fused.hstu_kernel import Bias, Pairs, Times
from sessionrec_jax.model.fused.hstu_pair import How
from sessionrec_jax.model.fused.over_heads import over_heads
from sessionrec_jax.model.places import first_slots, seconds_of_bucket, time_bucket

BLOCK = {"tpu": 128, "gpu": 64}
"""Slots of a block, by the kind of device. A TPU's matrix unit is 128 wide or twice that, and its vectors have 128
lanes. A GPU keeps a block in registers. Not tuned: neither was at hand."""
_LEAST_GPU_WIDTH = 16
"""The products of a GPU's kernel have at least this width, and a power of two."""


def fits(slots: int, head_width: int, dtype: jnp.dtype) -> bool:
    """Returns True if the kernels can keep a row of one head in the memory of a TPU's core."""
    block = BLOCK["tpu"]
    padded = math.ceil(slots / block) * block
    return hstu_kernel.vmem_bytes(padded, head_width, block, dtype.itemsize) <= hstu_kernel.VMEM_BYTES


def hstu_attention(
    q_RLNH: Float[Array, "R L N H"],
    k_RLNH: Float[Array, "R L N H"],
    v_RLNH: Float[Array, "R L N H"],
    user_RL: Int[Array, "R L"],
    bias: BiasTables | None,
    *,
    scale: float,
    divisor: int,
    platform: str,
    block: int = 0,
) -> Float[Array, "R L N H"]:
    """Returns the sum over the sessions that each may see of silu(scale * (q . k) + bias) / divisor * v.

    The slots of a user must be adjacent. `platform`: `tpu` or `gpu`. `block`: slots of a block; 0: the platform's own.
    """
    place_NP, time_NB, seconds_RL = (None, None, None) if bias is None else bias
    how = How(scale, divisor, block or BLOCK[platform], platform == "gpu")
    return _attention(how, q_RLNH, k_RLNH, v_RLNH, first_slots(user_RL), seconds_RL, place_NP, time_NB)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(how: How, q_RLNH, k_RLNH, v_RLNH, first_RL, seconds_RL, place_NP, time_NB):
    heads = q_RLNH.shape[2]

    def on_device(x):
        q, k, v, first_RL, seconds_RL, place_NP, time_NB = x
        arrays = [_by_head(how, part) for part in (q, k, v)]
        out = hstu_kernel.forward(how, *arrays, *_facts(how, first_RL, seconds_RL, place_NP, time_NB))
        return _by_slot(out, like=q)

    arguments = (q_RLNH, k_RLNH, v_RLNH, first_RL, seconds_RL, place_NP, time_NB)
    axes = (2, 2, 2, None, None, 0, 0)
    return over_heads(on_device, arguments, axes=axes, out_axes=2, heads=heads)


def _forward(how: How, *arguments):
    return _attention(how, *arguments), arguments


def _backward(how: How, arguments, grad_RLNH):
    heads = grad_RLNH.shape[2]

    def on_device(x):
        q, k, v, first_RL, seconds_RL, place_NP, time_NB, grad = x
        arrays = [_by_head(how, part) for part in (q, k, v)]
        pairs, bias = _facts(how, first_RL, seconds_RL, place_NP, time_NB)
        if bias is not None:
            bias = bias._replace(place_NKCC=jnp.swapaxes(bias.place_NKCC, 2, 3))
        backward = hstu_gpu.backward if how.on_gpu else hstu_kernel.backward
        found = backward(how, *arrays, pairs, bias, _by_head(how, grad.astype(v.dtype)))
        of_bias = (None, None)
        if bias is not None:
            of_place = jax.vjp(functools.partial(_place_blocks, how.block, q.shape[1]), place_NP)[1]
            of_bias = (*of_place(jnp.swapaxes(found.place_NKCC, 2, 3)), found.time_NBX.sum(axis=2))
        return (*(_by_slot(x, like=q) for x in found[:3]), *of_bias)

    found = over_heads(
        on_device, (*arguments, grad_RLNH), axes=(2, 2, 2, None, None, 0, 0, 2), out_axes=(2, 2, 2, 0, 0), heads=heads
    )
    return (*found[:3], None, None, *found[3:])


_attention.defvjp(_forward, _backward)


def _by_head(how: How, x_RLNH: Array) -> Float[Array, "R N M X"]:
    """Returns the heads before the slots, which are filled up to a multiple of the block, with zeros. The features are
    filled up to what a GPU's kernel wants."""
    x_RNLH = jnp.swapaxes(x_RLNH, 1, 2)
    width = x_RNLH.shape[3]
    extra = max(_LEAST_GPU_WIDTH, 1 << (width - 1).bit_length()) - width if how.on_gpu else 0
    return jnp.pad(x_RNLH, ((0, 0), (0, 0), (0, -x_RNLH.shape[2] % how.block), (0, extra)))


def _by_slot(x_RNMX: Array, like: Float[Array, "R L N H"]) -> Float[Array, "R L N H"]:
    return jnp.swapaxes(x_RNMX[:, :, : like.shape[1], : like.shape[3]], 1, 2)


def _facts(how: How, first_RL, seconds_RL, place_NP, time_NB) -> tuple[Pairs, Bias | None]:
    """Returns what both kernels read in addition to queries, keys and values. A slot that only fills up the last block
    sees itself alone; no other slot sees it."""
    rows, slots = first_RL.shape
    extra = -slots % how.block
    own_RX = jnp.broadcast_to(slots + jnp.arange(extra), (rows, extra))
    first_RKC = jnp.concatenate([first_RL, own_RX], axis=1).astype(jnp.int32).reshape(rows, -1, how.block)
    first_block_RK = first_RKC[:, :, 0] // how.block
    blocks = first_block_RK.shape[1]
    # The queries that see a key of a block are those of its own block and of later blocks that reach back to it.
    sees_RKK = first_block_RK[:, :, None] <= jnp.arange(blocks)
    last_block_RK = jnp.max(jnp.where(sees_RKK, jnp.arange(blocks)[:, None], 0), axis=1)
    pairs = Pairs(first_RKC[:, :, None], first_block_RK[:, None], last_block_RK[:, None].astype(jnp.int32))
    if place_NP is None:
        return pairs, None
    seconds_RKC = jnp.pad(seconds_RL, ((0, 0), (0, extra)), mode="edge").astype(jnp.int32).reshape(rows, -1, how.block)
    edge_xB = jnp.asarray(_edges(time_NB.shape[1]))
    times = Times(seconds_RKC[:, :, None], _buckets_of_blocks(seconds_RKC), edge_xB, time_NB[:, None])
    return pairs, Bias(_place_blocks(how.block, slots, place_NP), times)


def _buckets_of_blocks(seconds_RKC: Int[Array, "R K C"]) -> Int[Array, "R 2 X"]:
    """Returns the lowest and the highest bucket that a query and a key of each pair of blocks can have."""
    least_RK, most_RK = seconds_RKC.min(axis=2), seconds_RKC.max(axis=2)
    shortest_RKK = least_RK[:, :, None] - most_RK[:, None]
    longest_RKK = most_RK[:, :, None] - least_RK[:, None]
    buckets_R2KK = jnp.stack([time_bucket(shortest_RKK), time_bucket(longest_RKK)], axis=1)
    return buckets_R2KK.reshape(len(seconds_RKC), 2, -1)


def _edges(buckets: int) -> np.ndarray:
    """Returns [1, B]: the fewest seconds of each bucket; the most of 32 bits where no number of seconds reaches it."""
    most = np.iinfo(np.int32).max
    return np.array([[min(seconds_of_bucket(bucket), most) for bucket in range(buckets)]], np.int32)


def _place_blocks(block: int, slots: int, place_NP: Float[Array, "N P"]) -> Float32[Array, "N K C C"]:
    """Returns the bias by distance for blocks of queries and keys: [n, m, a, b] is the bias at m * C + a - b slots,
    and 0 at a negative distance, where nothing is seen.

    A row that repeats with a period of 2 C, read again in rows of 2 C - 1, is one place further in each row. So there
    is no gather, and no scatter in its gradient.
    """
    heads, blocks = len(place_NP), -(-slots // block)
    place_NX = jnp.pad(place_NP[:, :slots], ((0, 0), (block, blocks * block - min(slots, place_NP.shape[1]))))
    place_NKC = place_NX.reshape(heads, -1, block)
    # Distances m * C - C to m * C + C - 1 of each m. From one key to the next the distance falls.
    distance_NKD = jnp.concatenate([place_NKC[:, :-1], place_NKC[:, 1:]], axis=2)
    period_NKD = jnp.roll(distance_NKD[:, :, ::-1], block + 1, axis=2)
    repeated_NKX = jnp.tile(period_NKD, block)[:, :, : block * (2 * block - 1)]
    return repeated_NKX.reshape(heads, blocks, block, -1)[..., :block]
