"""The flags that say what the columns of a table of runs are called: the same for every command that reads one."""

from __future__ import annotations

from dataclasses import dataclass

import scaling


@dataclass(frozen=True, kw_only=True)
class ColumnArgs:
    """To be inherited by a command's Args."""

    loss: str | None = None
    """Column of the held-out loss."""
    metric: str | None = None
    """Column of a metric above 0 and below 1 (recall_at_500): 1 - M is fitted, or M itself by a metric law."""
    n: str | None = None
    """Column of the parameter count N."""
    d: str | None = None
    """Column of the data size D."""
    unique: str | None = None
    """Column of the distinct data within D, for runs of several epochs."""
    flops: str | None = None
    """Column of the training FLOPs C; in a table without D, D = C / (6 N)."""
    baseline: str | None = None
    """Column of a trivial predictor's loss: runs that do not beat it are left out."""
    floor_column: str | None = None
    """Column that holds the known irreducible loss, the same in all rows."""
    select_by: str | None = None
    """Column (a validation loss) by which tuned runs were chosen: the lowest of each cell stays."""
    select_within: str | None = None
    """The columns that make a cell, as A,B."""
    progress: str | None = None
    """Column of the fraction of its schedule that a row has done; rows before the end are left out."""
    recipe: str | None = None
    """Columns that must not vary in one fit, as A,B, beside the known ones (data set, losses, schedule, ...)."""
    cluster: str | None = None
    """Column that names the run where a run has several rows: they are resampled together."""
    run_id: str | None = None
    """Column that names a row in messages. Default: run_id, if there is one."""

    def columns(self) -> scaling.Columns:
        return scaling.Columns(
            loss=self.loss,
            metric=self.metric,
            n=self.n,
            d=self.d,
            unique=self.unique,
            flops=self.flops,
            baseline=self.baseline,
            floor=self.floor_column,
            select_by=self.select_by,
            select_within=names(self.select_within),
            progress=self.progress,
            recipe=names(self.recipe),
            cluster=self.cluster,
            run_id=self.run_id,
        )


def names(text: str | None) -> tuple[str, ...]:
    """The names in "A,B"."""
    return tuple(text.split(",")) if text else ()
