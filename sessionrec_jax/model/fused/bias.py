"""The learned bias of an attention layer, for kernels."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Array, Float32, Int


class BiasTables(NamedTuple):
    """The bias by distance in slots and by bucket of time, and the times. Letters: R rows, L session slots, N heads,
    P positions, B buckets of time."""

    place_NP: Float32[Array, "N P"]
    time_NB: Float32[Array, "N B"]
    seconds_RL: Int[Array, "R L"]
