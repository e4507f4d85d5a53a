"""The numbers that a run has seen and found so far. A checkpoint carries them from one process to the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from sessionrec_jax.data.batches import BatchCounts


@dataclass
class Counters:
    """Counts what the run has seen so far, over all processes that trained it."""

    target_sessions: int = 0
    """Target slots."""
    target_items: int = 0
    """Clicked items of target sessions: the terms of the retrieval loss."""
    sessions: int = 0
    """Packed sessions, history included; the next three count the history too."""
    items: int = 0
    session_slots: int = 0
    item_slots: int = 0
    wall_seconds: float = 0.0
    """Seconds of the loop, including compilation and checkpoints, without validation."""
    compile_seconds: float = 0.0
    """Seconds of the first step's call in each process: it is traced, then compiled or read from the compile cache."""
    runs_together: int = 1
    """The largest number of runs that trained side by side in one process, this one included. They share a loop: its
    seconds are in the row of each run, and the speeds of a run are its own share of the devices' work."""

    trunk: str = ""
    """run_id of the longer run that took the first steps; empty: this run took all."""
    steps_shared: int = 0
    """The steps that the trunk took. They are in all other counts too, and in the seconds."""
    items_shared: int = 0
    sessions_shared: int = 0

    def add(self, counts: BatchCounts) -> None:
        """Adds the counts of one batch."""
        self.target_sessions += counts.target_sessions
        self.sessions += counts.sessions
        self.items += counts.items
        self.session_slots += counts.session_slots
        self.item_slots += counts.item_slots

    def speed(self) -> dict[str, float]:
        """Returns packed sessions and items per second, compilation excluded, and the shares of slots left empty."""
        return speed(self, Counters(), self.wall_seconds - self.compile_seconds)


def speed(now: Counters, before: Counters, seconds: float) -> dict[str, float]:
    """Returns the speed between two moments that are `seconds` apart."""
    sessions, items = now.sessions - before.sessions, now.items - before.items
    return {
        "sessions_per_second": sessions / max(seconds, 1e-9),
        "items_per_second": items / max(seconds, 1e-9),
        "item_slots_padding": 1 - items / max(now.item_slots - before.item_slots, 1),
        "session_slots_padding": 1 - sessions / max(now.session_slots - before.session_slots, 1),
    }


class Best(NamedTuple):
    """The best validation so far."""

    step: int
    """Steps that the parameters had seen."""
    objective: float
    """Nats; see `evaluation.measure.validated`."""


class TrainingHistory(NamedTuple):
    """The whole of a finished run."""

    steps: int
    target_slots: int
    """Targets of one epoch: sessions, or items of an item-level paradigm."""
    counters: Counters
    best: Best | None
    """None if the run never validated."""
