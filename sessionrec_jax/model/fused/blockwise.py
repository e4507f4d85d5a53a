"""Attention in plain JAX, one block of queries after the other: the same numbers and the same products as the
reference, in the memory of one block. Runs on every kind of device.

Letters: R rows, L session slots, M of the key, N heads, H head width, C slots of a block, K blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

BLOCK = 128


def blockwise(
    attend: Callable[[Any, Int[Array, " C"]], Float[Array, "R C N H"]], by_slot: Any, slots: int, block: int = BLOCK
) -> Float[Array, "R L N H"]:
    """Returns the attention of all queries, where `attend(of_queries, slot_C)` gives that of some of them.

    `by_slot`: the arrays [R, L, ...] that the queries read; `attend` gets the slots slot_C of each. In the backward
    pass the weights of each block are computed again, so the weights of all blocks are never in memory together.
    """
    block = min(block, slots)
    blocks = -(-slots // block)

    def cut(x_RL: Shaped[Array, "R L *X"]) -> Shaped[Array, "K R C *X"]:
        x_RX = jnp.pad(x_RL, ((0, 0), (0, blocks * block - slots), *[(0, 0)] * (x_RL.ndim - 2)))
        return jnp.moveaxis(x_RX.reshape(len(x_RX), blocks, block, *x_RX.shape[2:]), 1, 0)

    def of_block(of_queries: tuple[Any, Int[Array, " C"]]) -> Float[Array, "R C N H"]:
        return attend(*of_queries)

    slot_KC = jnp.arange(blocks * block).reshape(blocks, block)
    of_block = jax.checkpoint(of_block, prevent_cse=False)
    out_KRCNH = jax.lax.map(of_block, (jax.tree.map(cut, by_slot), slot_KC))
    return jnp.moveaxis(out_KRCNH, 0, 1).reshape(out_KRCNH.shape[1], -1, *out_KRCNH.shape[3:])[:, :slots]
