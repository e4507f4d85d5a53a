"""The fastest way to take the mean over each session's items, and its share of the memory bandwidth.

    python benchmarks/segment_op.py
    python benchmarks/segment_op.py --users 1024 --compute bfloat16      # on a GPU

Users have up to 50 sessions of up to 24 items, the same sessions for all ways. Timed are forward alone, and forward
and backward; results are float32: packed: [T, D] by `segment_mean`, as in the model padded: [S, I, D] with a mask
one_hot: packed user by user, [U, T, D] padded to the longest user, times a one-hot matrix [U, S, T] cumsum:
differences of the cumulative sum of [T, D] at the borders of sessions `bandwidth_share` is the least traffic (each
item read, each session written; backward, each session read and each item written) over the seconds and the bandwidth
of this machine, measured in the same run on one large array. Arrays that fit into a cache may exceed 1. On a device
that runs calls asynchronously, ten are timed at once.

Attention within sessions is timed too, packed by `segment_attention` against padded, from queries, keys and values
on. The matrices before and after it, where packing has fewer rows, are left out. Below 1 the packed one is faster.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _bench import in_turns, ratio, report, significant

from sessionrec_jax.model.segment import segment_attention, segment_mean

SESSIONS, ITEMS, HEADS = 50, 24, 2
PADDING = 0.03  # of packed item slots, as the packer leaves them
FILLED = (0.25, 0.4, 0.6)
CASES = [(width, filled) for width in (64, 256) for filled in FILLED]
ATTENTION_CASES = [(64, filled) for filled in (0.1, *FILLED)]
OTHERS = ("one_hot", "cumsum")
BANDWIDTH_BYTES = 2**28
RUNS, CALLS = 15, 1 if jax.default_backend() == "cpu" else 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", default=64, type=int)
    parser.add_argument("--compute", default="float32", choices=("float32", "bfloat16"), help="type of the items")
    args = parser.parse_args()
    bandwidth = bytes_per_second()
    cases = [mean_case(args, width, filled, bandwidth) for width, filled in CASES]
    attention_cases = [attention_case(args, width, filled) for width, filled in ATTENTION_CASES]
    report(
        "packed segment mean against padded masked mean, forward and backward",
        "seconds packed / seconds padded, median of the cases",
        ratio=significant(median(of["ratio"] for of in cases)),
        forward_ratio=significant(median(of["forward_ratio"] for of in cases)),
        others={name: significant(median(of["others"][name]["ratio"] for of in cases)) for name in OTHERS},
        bandwidth_gb_per_second=significant(bandwidth / 1e9),
        bandwidth_share=significant(median(of["bandwidth_share"] for of in cases)),
        cases=cases,
        attention_ratio=significant(median(of["ratio"] for of in attention_cases)),
        attention_cases=attention_cases,
        **vars(args),
        runs=RUNS,
        device_kind=jax.devices()[0].device_kind,
        jax_version=jax.__version__,
    )


def bytes_per_second() -> float:
    """Measures reading plus writing, by the fastest of some passes over one large array.

    The array is updated in place, because a new one of this size costs the operating system more than the memory.
    """
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = add(jnp.zeros(BANDWIDTH_BYTES // 4))
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        x = jax.block_until_ready(add(x))
        seconds.append(time.perf_counter() - start)
    return 2 * BANDWIDTH_BYTES / min(seconds)


def mean_case(args: argparse.Namespace, width: int, filled: float, bandwidth: float) -> dict[str, Any]:
    is_item_SI = sessions(args.users, filled)
    segments = len(is_item_SI)
    rng = np.random.default_rng(0)
    x_SID = rng.standard_normal((*is_item_SI.shape, width), np.float32).astype(args.compute)
    weight_SD = rng.standard_normal((segments, width), np.float32)
    x_TD, session_T = packed(x_SID, is_item_SI)
    length_S = is_item_SI.sum(axis=1)
    contenders = {
        "packed": (functools.partial(packed_mean, segments), x_TD, session_T),
        "padded": (padded_mean, x_SID, is_item_SI),
        "one_hot": (one_hot_mean, *by_user(x_SID, is_item_SI)),
        "cumsum": (cumsum_mean, x_TD, np.append(0, np.cumsum(length_S))),
    }
    contenders = {name: (function, *jax.device_put(arrays)) for name, (function, *arrays) in contenders.items()}
    weight_SD = jax.device_put(weight_SD)
    calls = [
        *(functools.partial(forward, *of) for of in contenders.values()),
        *(functools.partial(weighted_gradient, *of, weight_SD) for of in contenders.values()),
    ]
    seconds = timed(calls)
    forward_seconds = dict(zip(contenders, seconds[: len(contenders)], strict=True))
    both_seconds = dict(zip(contenders, seconds[len(contenders) :], strict=True))
    one_way = width * (x_SID.itemsize * int(length_S.sum()) + weight_SD.itemsize * segments)
    means = {name: np.asarray(forward(*of)) for name, of in contenders.items()}

    def of_contender(name: str) -> dict[str, float]:
        return {
            **ratio(both_seconds[name], both_seconds["padded"]),
            "forward_ratio": ratio(forward_seconds[name], forward_seconds["padded"])["ratio"],
            "ms": significant(1e3 * median(both_seconds[name])),
            "forward_ms": significant(1e3 * median(forward_seconds[name])),
            "bandwidth_share": significant(2 * one_way / median(both_seconds[name]) / bandwidth),
            "forward_bandwidth_share": significant(one_way / median(forward_seconds[name]) / bandwidth),
            "largest_difference": significant(float(np.abs(means[name] - means["padded"]).max())),
        }

    return {
        "width": width,
        "filled": significant(float(is_item_SI.mean())),
        "least_mb": significant(2 * one_way / 1e6),
        **of_contender("packed"),
        "padded_ms": significant(1e3 * median(both_seconds["padded"])),
        "padded_forward_ms": significant(1e3 * median(forward_seconds["padded"])),
        "others": {name: of_contender(name) for name in OTHERS},
    }


def attention_case(args: argparse.Namespace, width: int, filled: float) -> dict[str, float]:
    is_item_SI = sessions(args.users, filled)
    rng = np.random.default_rng(0)
    qkv_SI3NH = rng.standard_normal((*is_item_SI.shape, 3, HEADS, width // HEADS), np.float32).astype(args.compute)
    weight_SINH = rng.standard_normal((*is_item_SI.shape, HEADS, width // HEADS), np.float32)
    qkv_T3NH, session_T = packed(qkv_SI3NH, is_item_SI)
    weight_TNH, _ = packed(weight_SINH, is_item_SI)
    attend = functools.partial(packed_attention, len(is_item_SI))
    a_TNH, a_SINH = jax.device_get(
        (forward(attend, qkv_T3NH, session_T), forward(padded_attention, qkv_SI3NH, is_item_SI))
    )
    contenders = (
        (attend, qkv_T3NH, session_T, weight_TNH),
        (padded_attention, qkv_SI3NH, is_item_SI, np.where(is_item_SI[:, :, None, None], weight_SINH, 0)),
    )
    seconds = timed([
        functools.partial(weighted_gradient, function, *jax.device_put(arrays)) for function, *arrays in contenders
    ])  # fmt: skip
    return {
        "width": width,
        "filled": significant(float(is_item_SI.mean())),
        **ratio(*seconds),
        "packed_ms": significant(1e3 * median(seconds[0])),
        "padded_ms": significant(1e3 * median(seconds[1])),
        "largest_difference": significant(float(np.abs(a_TNH[: is_item_SI.sum()] - a_SINH[is_item_SI]).max())),
    }


def sessions(users: int, filled: float) -> np.ndarray:
    """Draws which of the padded slots [S, I] hold an item: about the share `filled` of them."""
    drawn_S = np.random.default_rng(0).geometric(1 / (filled * ITEMS * 1.15), users * SESSIONS)
    return np.arange(ITEMS) < np.minimum(drawn_S, ITEMS)[:, None]


def packed(x_SI: np.ndarray, is_item_SI: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Packs padded [S, I, ...] into items [T, ...] and the session of each, with padding at the end."""
    x_T, session_T = x_SI[is_item_SI], np.nonzero(is_item_SI)[0]
    padding = round(PADDING * len(x_T))
    fill = np.zeros((padding, *x_T.shape[1:]), x_T.dtype)
    return np.concatenate([x_T, fill]), np.pad(session_T, (0, padding), constant_values=len(is_item_SI))


def timed(calls: Sequence[Callable[[], Any]]) -> list[list[float]]:
    """Times each call, in turns."""

    def several(call: Callable[[], Any]) -> None:
        jax.block_until_ready([call() for _ in range(CALLS)])

    seconds = in_turns(RUNS, *(functools.partial(several, call) for call in calls))
    return [[of_calls / CALLS for of_calls in of_call] for of_call in seconds]


@functools.partial(jax.jit, static_argnums=0)
def forward(function: Callable[..., jax.Array], x: jax.Array, layout: jax.Array) -> jax.Array:
    return function(x, layout)


@functools.partial(jax.jit, static_argnums=0)
def weighted_gradient(
    function: Callable[..., jax.Array], x: jax.Array, layout: jax.Array, weight: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the weighted sum of the outputs and its gradient in x.

    All arrays are arguments, because XLA would compute the gradient of a linear function of constants as it compiles.
    """
    return jax.value_and_grad(lambda x: jnp.sum(function(x, layout) * weight))(x)


def packed_mean(segments: int, x_TD: jax.Array, session_T: jax.Array) -> jax.Array:
    return segment_mean(x_TD, session_T, segments, is_sorted=True)


def padded_mean(x_SID: jax.Array, is_item_SI: jax.Array) -> jax.Array:
    return jnp.mean(x_SID, axis=1, where=is_item_SI[:, :, None], dtype=jnp.float32)


def by_user(x_SID: np.ndarray, is_item_SI: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The items of each user side by side, [U, T, D], and the session of each among the user's, [U, T]."""
    x_USID = x_SID.reshape(-1, SESSIONS, *x_SID.shape[1:])
    is_item_USI = is_item_SI.reshape(-1, SESSIONS, ITEMS)
    longest = int(is_item_USI.sum(axis=(1, 2)).max())
    x_UTD = np.zeros((len(x_USID), longest, x_SID.shape[-1]), x_SID.dtype)
    session_UT = np.full(x_UTD.shape[:2], SESSIONS)  # of padding: no column of the one-hot matrix
    for x_TD, session_T, x_SID, is_item_SI in zip(x_UTD, session_UT, x_USID, is_item_USI, strict=True):
        items = is_item_SI.sum()
        x_TD[:items], session_T[:items] = x_SID[is_item_SI], np.nonzero(is_item_SI)[0]
    return x_UTD, session_UT


def one_hot_mean(x_UTD: jax.Array, session_UT: jax.Array) -> jax.Array:
    one_hot_UTS = jax.nn.one_hot(session_UT, SESSIONS, dtype=x_UTD.dtype)
    sum_USD = jnp.einsum("UTS,UTD->USD", one_hot_UTS, x_UTD, preferred_element_type=jnp.float32)
    count_US1 = one_hot_UTS.sum(axis=1)[:, :, None]
    return (sum_USD / jnp.maximum(count_US1, 1)).reshape(-1, x_UTD.shape[-1])


def cumsum_mean(x_TD: jax.Array, border_S1: jax.Array) -> jax.Array:
    """`border_S1`: the place of each session's first item, and one past the last item."""
    total_T1D = jnp.pad(jnp.cumsum(x_TD, axis=0, dtype=jnp.float32), ((1, 0), (0, 0)))
    return jnp.diff(total_T1D[border_S1], axis=0) / jnp.maximum(jnp.diff(border_S1), 1)[:, None]


def packed_attention(segments: int, qkv_T3NH: jax.Array, session_T: jax.Array) -> jax.Array:
    return segment_attention(*jnp.moveaxis(qkv_T3NH, 1, 0), session_T, segments, ITEMS)


def padded_attention(qkv_SI3NH: jax.Array, is_item_SI: jax.Array) -> jax.Array:
    q_SINH, k_SJNH, v_SJNH = jnp.moveaxis(qkv_SI3NH, 2, 0)
    logit_SNIJ = jnp.einsum("SINH,SJNH->SNIJ", q_SINH, k_SJNH, preferred_element_type=jnp.float32)
    logit_SNIJ = jnp.where(is_item_SI[:, None, None], logit_SNIJ * q_SINH.shape[-1] ** -0.5, -1e30)
    weight_SNIJ = jax.nn.softmax(logit_SNIJ, axis=-1).astype(v_SJNH.dtype)
    return jnp.einsum("SNIJ,SJNH->SINH", weight_SNIJ, v_SJNH, preferred_element_type=jnp.float32)


if __name__ == "__main__":
    main()
