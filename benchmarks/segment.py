"""Are the packed segment mean and attention faster than padding every session to the longest one?

    python benchmarks/segment.py

Forward and backward over the items of every session: packed [T, ...] by `segment_mean` and `segment_attention`, against
padded [S, I, ...] with a mask, on the same sessions: 64 users of up to 50 sessions of up to 24 items. The attention is
that from queries, keys and values on: the matrices before and after it, of which packing has fewer rows, are left out.
Below 1 the packed one is faster.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np
from _bench import in_turns, ratio, report, significant

from sessionrec_jax.model.segment import segment_attention, segment_mean

USERS, SESSIONS, ITEMS, HEADS = 64, 50, 24, 2
SEGMENTS = USERS * SESSIONS
PADDING = 0.03  # of packed item slots, as the packer leaves them
FILLED = (0.25, 0.4, 0.6)
CASES = [(width, filled) for width in (64, 256) for filled in FILLED]
ATTENTION_CASES = [(64, filled) for filled in (0.1, *FILLED)]
RUNS = 15


def main() -> None:
    cases = [mean_case(width, filled) for width, filled in CASES]
    attention_cases = [attention_case(width, filled) for width, filled in ATTENTION_CASES]
    report(
        "packed segment mean against padded masked mean, forward and backward",
        "seconds packed / seconds padded, median of the cases",
        ratio=significant(median(of["ratio"] for of in cases)),
        cases=cases,
        attention_ratio=significant(median(of["ratio"] for of in attention_cases)),
        attention_cases=attention_cases,
        runs=RUNS,
        device_kind=jax.devices()[0].device_kind,
        jax_version=jax.__version__,
    )


def mean_case(width: int, filled: float) -> dict[str, float]:
    is_item_SI = sessions(filled)
    rng = np.random.default_rng(0)
    x_SID = rng.standard_normal((*is_item_SI.shape, width), np.float32)
    weight_SD = rng.standard_normal((SEGMENTS, width), np.float32)
    x_TD, session_T = packed(x_SID, is_item_SI)
    difference_SD = packed_mean(x_TD, session_T) - padded_mean(x_SID, is_item_SI)
    return timed(
        (packed_mean, x_TD, session_T, weight_SD),
        (padded_mean, x_SID, is_item_SI, weight_SD),
        is_item_SI,
        difference_SD,
    )


def attention_case(width: int, filled: float) -> dict[str, float]:
    is_item_SI = sessions(filled)
    rng = np.random.default_rng(0)
    qkv_SI3NH = rng.standard_normal((*is_item_SI.shape, 3, HEADS, width // HEADS), np.float32)
    weight_SINH = rng.standard_normal((*is_item_SI.shape, HEADS, width // HEADS), np.float32)
    qkv_T3NH, session_T = packed(qkv_SI3NH, is_item_SI)
    weight_TNH, _ = packed(weight_SINH, is_item_SI)
    items = is_item_SI.sum()
    difference_NNH = packed_attention(qkv_T3NH, session_T)[:items] - padded_attention(qkv_SI3NH, is_item_SI)[is_item_SI]
    return timed(
        (packed_attention, qkv_T3NH, session_T, weight_TNH),
        (padded_attention, qkv_SI3NH, is_item_SI, np.where(is_item_SI[:, :, None, None], weight_SINH, 0)),
        is_item_SI,
        difference_NNH,
    )


def sessions(filled: float) -> np.ndarray:
    """Which of the padded slots [S, I] hold an item. `filled`: about which share of them."""
    length_S = np.minimum(np.random.default_rng(0).geometric(1 / (filled * ITEMS * 1.15), SEGMENTS), ITEMS)
    return np.arange(ITEMS) < length_S[:, None]


def packed(x_SI: np.ndarray, is_item_SI: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The items [T, ...] of padded [S, I, ...] and the session of each, with padding at the end."""
    x_T, session_T = x_SI[is_item_SI], np.nonzero(is_item_SI)[0]
    padding = round(PADDING * len(x_T))
    fill = np.zeros((padding, *x_T.shape[1:]), x_T.dtype)
    return np.concatenate([x_T, fill]), np.pad(session_T, (0, padding), constant_values=SEGMENTS)


def timed(packed: tuple, padded: tuple, is_item_SI: np.ndarray, difference: jax.Array) -> dict[str, float]:
    """`packed`, `padded`: (function, x, layout, weight)."""
    packed, padded = ((function, *jax.device_put(arrays)) for function, *arrays in (packed, padded))
    seconds = in_turns(
        RUNS,
        lambda: jax.block_until_ready(weighted_gradient(*packed)),
        lambda: jax.block_until_ready(weighted_gradient(*padded)),
    )
    return {
        "width": int(np.prod(packed[3].shape[1:])),
        "filled": significant(float(is_item_SI.mean())),
        **ratio(*seconds),
        "packed_ms": significant(1e3 * median(seconds[0])),
        "padded_ms": significant(1e3 * median(seconds[1])),
        "largest_difference": significant(float(jnp.abs(difference).max())),
    }


@functools.partial(jax.jit, static_argnums=0)
def weighted_gradient(
    function: Callable[..., jax.Array], x: jax.Array, layout: jax.Array, weight: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Of the weighted sum of the outputs, by x. All arrays are arguments: XLA would compute the gradient of a linear
    function of constants when it compiles."""
    return jax.value_and_grad(lambda x: jnp.sum(function(x, layout) * weight))(x)


def packed_mean(x_TD: jax.Array, session_T: jax.Array) -> jax.Array:
    return segment_mean(x_TD, session_T, SEGMENTS, is_sorted=True)


def padded_mean(x_SID: jax.Array, is_item_SI: jax.Array) -> jax.Array:
    return jnp.mean(x_SID, axis=1, where=is_item_SI[:, :, None])


def packed_attention(qkv_T3NH: jax.Array, session_T: jax.Array) -> jax.Array:
    return segment_attention(*jnp.moveaxis(qkv_T3NH, 1, 0), session_T, SEGMENTS, ITEMS)


def padded_attention(qkv_SI3NH: jax.Array, is_item_SI: jax.Array) -> jax.Array:
    q_SINH, k_SJNH, v_SJNH = jnp.moveaxis(qkv_SI3NH, 2, 0)
    logit_SNIJ = jnp.einsum("SINH,SJNH->SNIJ", q_SINH, k_SJNH) * q_SINH.shape[-1] ** -0.5
    weight_SNIJ = jax.nn.softmax(jnp.where(is_item_SI[:, None, None], logit_SNIJ, -1e30), axis=-1)
    return jnp.einsum("SNIJ,SJNH->SINH", weight_SNIJ, v_SJNH)


if __name__ == "__main__":
    main()
