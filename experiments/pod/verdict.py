"""Conclusions from what the compiler said: does the run fit, what would, and how busy the matrix units can be."""

from __future__ import annotations

import math
from typing import Any

from experiments.pod.chips import Chip

_FULL = 0.9
"""The share of the memory that a suggestion fills at most."""


def needed_bytes(program: dict[str, Any]) -> float | None:
    """Returns the bytes that a device needs; None if the compiler refused the program and gave no number."""
    return program.get("peak_bytes", program.get("out_of_memory_bytes"))


def fits(program: dict[str, Any], chip: Chip) -> bool:
    """Returns whether the compiler accepted the program and its bytes are within the memory of a device."""
    return "peak_bytes" in program and program["peak_bytes"] <= chip.hbm_bytes


def advice(found: dict[str, Any], chip: Chip, microbatches: int) -> str:
    """Returns what would fit instead of a step that does not. It assumes that temporaries fall with the number of
    microbatches, which is true of activations, and that the state falls with the number of devices."""
    state, room = found["state_bytes"], _FULL * chip.hbm_bytes
    if state > room:
        chips = 2 ** math.ceil(math.log2(found["devices"] * state / room)) // chip.devices_per_chip
        return (
            f"the parameters and the optimizer state alone are {state / 1e9:.3g} GB a device; use about {chips:,} "
            "chips, a smaller --model.id-width, or --optim.table-rule adagrad"
        )
    needed = needed_bytes(found["programs"]["step"])
    if needed is None:
        return "use more --train.microbatches, or more chips"
    parts = math.ceil((needed - state) / (room - state))
    wanted = microbatches * 2 ** math.ceil(math.log2(max(parts, 2)))
    return (
        f"about --train.microbatches {wanted} would fit at the same batch (with as many rows a shard or more); fewer "
        "rows a shard, or --model.remat where it is off, also help"
    )


def compute_seconds(program: dict[str, Any], chip: Chip) -> float:
    """Returns XLA's estimate of a program's time, without collectives, gathers, scatters and sorts."""
    return program["cycles"] / chip.clock_hz


def link_seconds(program: dict[str, Any]) -> float:
    """Returns the time of all collectives, one after the other, at the rate of the links."""
    return sum(each["seconds"] for each in program["collectives"])


def matrix_seconds(found: dict[str, Any], chip: Chip) -> float:
    """Returns the time of a step's closed-form FLOPs at the peak of the matrix units."""
    return found["flops"] / found["devices"] / chip.peak_flops_per_second


def matrix_share(found: dict[str, Any], chip: Chip) -> float:
    """Returns the largest share of a step in which the matrix units can be busy, if collectives do not overlap with
    compute. Where the compiler gives no estimate, as for GPUs, the matrix products are all of the compute."""
    step, products = found["programs"]["step"], matrix_seconds(found, chip)
    return products / (max(compute_seconds(step, chip), products) + link_seconds(step))


def sent_bytes(program: dict[str, Any], name: str = "sent_bytes") -> float:
    """Returns the bytes that a device sends in one run of a program."""
    return sum(each[name] for each in program["collectives"])
