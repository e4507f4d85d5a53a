"""The question that the parent asks its child: which programs, for which devices. It travels as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import from_dict, to_dict

PROGRAMS = ("step", "initial state", "item table", "evaluation", "catalogue ranks")
"""The programs that a run compiles, in the order in which they are reported."""


@dataclass(frozen=True)
class Shapes:
    """The sizes that a prepared log would decide."""

    items: int = 10_000_000
    """Items of the catalogue."""
    rows_per_shard: int = 32
    """Rows of a shard of the batch; there is one shard for each place on the axes data x fsdp. Used if --data.rows is
    0."""
    exposures_per_session: float = 8.0
    """Mean exposures of a session. Used if --data.items-per-row is 0."""
    longest_session: int = 64
    """Exposures of the longest session."""
    side_values: tuple[int, ...] = ()
    """Number of values of each column of side information."""


@dataclass(frozen=True)
class Job:
    """The programs of one run on one pod."""

    topology: str
    slices: int
    config: Config
    shapes: Shapes = field(default_factory=Shapes)
    programs: tuple[str, ...] = ("step",)

    def on(self, topology: str) -> Job:
        return replace(self, topology=topology)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"config": to_dict(self.config)}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Job:
        shapes = Shapes(**stored["shapes"] | {"side_values": tuple(stored["shapes"]["side_values"])})
        config = from_dict(stored["config"])
        return cls(stored["topology"], stored["slices"], config, shapes, tuple(stored["programs"]))
