"""The names of a table's columns. This file imports nothing heavy, so that a command can show its flags at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The names of a table's columns. A fit needs a loss or a metric; it needs D or FLOPs too, except for a law of a
    metric as a function of the loss."""

    loss: str | None = None
    """Column of the held-out loss, in nats."""
    metric: str | None = None
    """Column of a metric above 0 and below 1 (recall_at_500). 1 - M is fitted, or M itself by a metric law."""
    n: str | None = None
    """Column of the parameter count N."""
    d: str | None = None
    """Column of the data size D: sessions, tokens or whatever the law counts."""
    unique: str | None = None
    """Column of the distinct data within D, for runs of several epochs."""
    flops: str | None = None
    """Column of the training FLOPs C. In a table without D, D = C / (6 N)."""
    n_from_flops: str | None = None
    """Column of the training FLOPs C in a table without N: N = C / (6 D)."""
    density: str | None = None
    """Column of the part of the parameters that are not zero, or active: 1 - sparsity, above 0 and at most 1."""
    baseline: str | None = None
    """Column of a trivial predictor's loss (or metric, without a loss). Runs that do not beat it are excluded."""
    floor_column: str | None = None
    """Column of the known irreducible loss: the same number in all rows."""
    select_by: str | None = None
    """Column (a validation loss) that tuned runs are chosen by. The run with the lowest value in its cell is kept."""
    select_within: tuple[str, ...] = ()
    """Columns that make a cell, as A,B."""
    progress: str | None = None
    """Column of the fraction of its schedule that a row has done, 0 to 1. Rows before the end are excluded."""
    recipe: tuple[str, ...] = ()
    """Columns that must not vary in one fit, as A,B."""
    cluster: str | None = None
    """Column that names the run where a run has several rows. The bootstrap draws the rows of one run together."""
    run_id: str | None = None
    """Column that names a row in messages. Default: run_id, if there is one, else the row's number."""
    seed_column: str | None = None
    """Column of the run's seed. Default: seed, if there is one."""

    def __post_init__(self) -> None:
        for field in ("select_within", "recipe"):
            object.__setattr__(self, field, _listed(getattr(self, field)))

    @property
    def response(self) -> str:
        """The column that is fitted: the loss, else the metric."""
        return self.loss or self.metric or ""


def _listed(names: str | Sequence[str]) -> tuple[str, ...]:
    """The names in "A,B", or in several such texts."""
    texts = (names,) if isinstance(names, str) else names
    return tuple(name for text in texts for name in text.split(",") if name)
