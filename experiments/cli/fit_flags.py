"""The flags that `sessionrec fit` and `report` share. This file imports nothing heavy, so that --help need not wait."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from doors.bounds import SEED, Between
from scaling.options import DEFAULTS
from scaling.table.names import Columns

ColumnFlags = Annotated[Columns, tyro.conf.OmitArgPrefixes, tyro.conf.UseAppendAction]
"""One flag for each field of scaling.Columns."""


@dataclass(frozen=True, kw_only=True)
class FitFlags:
    law: str | None = None
    """Laws of D: power, power_floor, broken, shifted. Laws of N and D: chinchilla, chinchilla_no_floor, tied, kaplan,
    gamma, data_exponent. A law of N, D and unique data: repeated; of N, D and density: sparse. Laws of a metric against
    the loss: metric_sigmoid, metric_exponential, metric_chance. best takes the law that predicts held-out runs best. Of
    several, as A,B, the one that predicts them best is the answer. The default is that of report.json; else chinchilla
    if N varies fourfold, else power_floor, and metric_sigmoid for a metric against a loss."""
    objective: Literal["huber", "lad", "ls", "ls_loss"] = DEFAULTS.objective
    """The objective on residuals of log loss: Huber, least absolute deviation, or least squares; ls_loss is least
    squares of the loss itself."""
    delta: str = DEFAULTS.delta
    """The threshold of Huber in nats of log loss; auto is 1.345 robust standard deviations of the residuals."""
    drop_worst: Annotated[int, Between(0, 2**31)] = 0
    """Leave out this number of runs of highest loss; the fit with them is shown too."""
    floor: float | Literal["free"] | None = DEFAULTS.floor
    """The known irreducible loss, which is then not fitted. free fits it although the sweep knows it."""
    fix: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE")] = ()
    """Parameters that are not fitted, with their values as the formula writes them: alpha=0.35."""
    bootstrap: Annotated[int, Between(0, 100_000)] = DEFAULTS.bootstrap
    """The number of bootstrap resamplings for the intervals, 40 or more; 0 gives none."""
    seed: Annotated[int, SEED] = DEFAULTS.seed
    """The seed of the resampling."""
    columns: ColumnFlags = field(default_factory=Columns)
