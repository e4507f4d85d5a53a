"""Is the packed segment mean faster than padding every session to the longest one?

    python benchmarks/segment.py

Forward and backward of the mean over a session's items: packed [T, D] by `segment_mean`, against padded [B, S, I, D]
with a mask, on the same sessions: 64 users of up to 50 sessions of up to 24 items. Below 1 the packed one is faster.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np
from _bench import in_turns, ratio, report, significant

from sessionrec_jax.model.segment import segment_mean

USERS, SESSIONS, ITEMS = 64, 50, 24
PADDING = 0.03  # of packed item slots, as the packer leaves them
CASES = [(width, filled) for width in (64, 256) for filled in (0.25, 0.4, 0.6)]
RUNS = 15


def main() -> None:
    cases = [case(width, filled) for width, filled in CASES]
    report(
        "packed segment mean against padded masked mean, forward and backward",
        "seconds packed / seconds padded, median of the cases",
        ratio=significant(median(of["ratio"] for of in cases)),
        cases=cases,
        runs=RUNS,
        device_kind=jax.devices()[0].device_kind,
        jax_version=jax.__version__,
    )


def case(width: int, filled: float) -> dict[str, float]:
    """`filled`: share of the padded slots that hold an item."""
    rng = np.random.default_rng(0)
    length_S = np.minimum(rng.geometric(1 / (filled * ITEMS * 1.15), USERS * SESSIONS), ITEMS)
    is_item_SI = np.arange(ITEMS) < length_S[:, None]
    x_SID = rng.standard_normal((USERS * SESSIONS, ITEMS, width), np.float32)
    weight_SD = rng.standard_normal((USERS * SESSIONS, width), np.float32)
    padding = round(PADDING * length_S.sum())
    x_TD = np.pad(x_SID[is_item_SI], ((0, padding), (0, 0)))
    session_T = np.pad(np.repeat(np.arange(len(length_S)), length_S), (0, padding), constant_values=len(length_S))
    packed = jax.device_put((x_TD, session_T, weight_SD))
    padded = jax.device_put((x_SID, is_item_SI, weight_SD))
    seconds = in_turns(
        RUNS,
        lambda: jax.block_until_ready(weighted_gradient(of_packed, *packed)),
        lambda: jax.block_until_ready(weighted_gradient(of_padded, *padded)),
    )
    difference_SD = of_packed(x_TD, session_T, len(weight_SD)) - of_padded(x_SID, is_item_SI, len(weight_SD))
    return {
        "width": width,
        "filled": significant(float(is_item_SI.mean())),
        **ratio(*seconds),
        "packed_ms": significant(1e3 * median(seconds[0])),
        "padded_ms": significant(1e3 * median(seconds[1])),
        "largest_difference": significant(float(jnp.abs(difference_SD).max())),
    }


@functools.partial(jax.jit, static_argnums=0)
def weighted_gradient(
    mean: Callable[..., jax.Array], x: jax.Array, layout: jax.Array, weight_SD: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Of the weighted sum of the means, by x. All arrays are arguments: XLA would compute the gradient of a linear
    function of constants when it compiles."""
    return jax.value_and_grad(lambda x: jnp.sum(mean(x, layout, len(weight_SD)) * weight_SD))(x)


def of_packed(x_TD: jax.Array, session_T: jax.Array, sessions: int) -> jax.Array:
    return segment_mean(x_TD, session_T, sessions, is_sorted=True)


def of_padded(x_SID: jax.Array, is_item_SI: jax.Array, sessions: int) -> jax.Array:
    del sessions
    return jnp.mean(x_SID, axis=1, where=is_item_SI[:, :, None])


if __name__ == "__main__":
    main()
