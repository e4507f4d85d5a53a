"""Which runs to make: can a plan identify its law, what cures a table that no law fits, what to run next.

    check_plan("chinchilla", None, n, d)                     # runs that are planned
    advise(table, "chinchilla", wanted="beta", runs=4)       # runs that were made

`sessionrec design` prints what these return.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from scaling.design.assumption import SIGMA_LEAST, Assumption, along_ray, fit_sigma, ray_slope
from scaling.design.cure import Cure, cure
from scaling.design.identify import Verdict, check_plan, exponents, identify, planned_points, refusal
from scaling.design.propose import Proposal, ProposedRun, Run, candidate_grid, propose
from scaling.errors import InputError, Refusal, near_miss
from scaling.fitting.fit import fit
from scaling.fitting.fitted import FittedLaw
from scaling.fitting.noise import seed_noise
from scaling.laws import registry
from scaling.laws.terms import Points
from scaling.table import checks
from scaling.table.files import load
from scaling.table.run_table import Columns, RunTable, from_frame

__all__ = [
    "Advice", "Assumption", "Cure", "Proposal", "ProposedRun", "Run", "Verdict",
    "advise", "candidate_grid", "check_plan", "cure", "identify", "points_of", "propose", "read_plan",
]  # fmt: skip


@dataclass(frozen=True)
class Advice:
    """What to run next, and why. Either a cure or a proposal is there."""

    refused: str | None
    """Why the law cannot be fitted to the table as it is."""
    verdict: Verdict
    cure: Cure | None
    proposal: Proposal | None

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def read_plan(path: str | Path, columns: Columns) -> RunTable:
    """A table of R runs that nobody has made: of `columns` only `n`, `d` and `flops` count, and its loss means nothing.

    Raises InputError: no such file or column, text or a number that is not above 0 in it, no rows.
    """
    frame, _ = load(path)
    for flag, name in (("--n", columns.n), ("--d", columns.d), ("--flops", columns.flops)):
        if name is not None and name not in frame.columns:
            raise InputError(f"{path} has no column {name!r} ({flag}); {near_miss(name, frame.columns)}")
    kept = [name for name in dict.fromkeys((columns.n, columns.d, columns.flops)) if name is not None]
    # a run of its own each, so that a second seed is no copy
    frame = frame.select(*kept, pl.lit(1.0).alias("loss of a plan"), pl.int_range(pl.len()).alias("run of a plan"))
    named = Columns(loss="loss of a plan", run_id="run of a plan", n=columns.n, d=columns.d, flops=columns.flops)
    return from_frame(frame, named, source=str(path))


def points_of(table: RunTable, law: registry.Law) -> Points:
    """N and D of a table's R rows, also where the law is of one of them: both tell what a run costs.

    Raises InputError for a law of other axes, and where one has no column.
    """
    for axis in ("n", "d"):
        if getattr(table, axis) is None:
            raise InputError(f"a design needs {axis.upper()}, which tells what a run costs: name its column, --{axis}")
    return planned_points(law, table.n, table.d)


def usual_quantity(fitted: FittedLaw) -> str:
    """What is asked for by default: beta, or the law's only exponent."""
    return "beta" if "beta" in fitted.free else exponents(fitted)[0]


def advise(
    table: RunTable,
    law: str = "chinchilla",
    *,
    assumed: FittedLaw | None = None,
    told: str = "the given law",
    sigma: float | None = None,
    floor: float | None = None,
    wanted: str | None = None,
    runs: int = 4,
    candidates: Points | None = None,
    flops_limit: float | None = None,
    per: Literal["flop", "run"] = "flop",
) -> Advice:
    """The next runs for a table of finished ones.

    Where the table is refused for its design, these are the runs that cure it; else those that shrink the interval of
    `wanted` most.

    Args:
      table: finished runs.
      law: a name in `registry.LAWS`, of N and D or one of them.
      assumed: the law to reckon with, and `told` where it is from. Default: the table's own fit; on a single ray, what
        `assumption.along_ray` lets one assume.
      sigma: standard deviation of log loss around the law, in nats. Default: that of the table's residuals.
      floor: a known irreducible loss. Default: the table's floor column, if it has one.
      wanted: a quantity, see `information.quantity`. Default: beta, or the law's only exponent.
      runs, candidates, flops_limit, per: see `propose`.

    Raises:
      InputError: something was named wrongly, or no candidate is within the limits.
      Refusal: the table cannot carry the law for a reason that no run cures, or there is nothing to reckon with.
    """
    chosen = registry.by_name(law)
    points = points_of(table, chosen)
    known_floor = table.known_floor if floor is None and chosen.has_floor else floor
    refused = None
    try:
        checks.refuse(table, chosen, known_floor)
    except Refusal as reason:
        refused = str(reason)
    assumptions = _assumptions(table, chosen, assumed, told, known_floor, refused)
    if sigma is not None:
        assumptions = tuple(dataclasses.replace(a, sigma=sigma) for a in assumptions)
    if refused is not None and refusal(assumptions[0].law, points)[0] is None:
        raise Refusal(refused)  # it is not for the design, so no run cures it
    wanted = usual_quantity(assumptions[0].law) if wanted is None else wanted
    verdict = identify(assumptions[0], points, (wanted,))
    if refused is not None:
        found = cure(assumptions, points, candidates=candidates, flops_limit=flops_limit)
        return Advice(refused, verdict, found, None)
    proposal = propose(
        assumptions[0], points, wanted, runs=runs, candidates=candidates, flops_limit=flops_limit, per=per
    )
    return Advice(None, verdict, None, proposal)


def _assumptions(table, law, assumed, told, known_floor, refused) -> tuple[Assumption, ...]:
    if assumed is not None:
        noise = seed_noise(table, assumed.law)
        if noise is not None:
            return (Assumption(assumed, max(noise.sigma, SIGMA_LEAST), f"{told}; noise from repeated runs"),)
        residual_R = np.log(table.response(assumed.law)) - np.log(assumed.loss_at(table.points(assumed.law))[0])
        return (Assumption(assumed, fit_sigma(residual_R, 0), f"{told}; noise from the table's spread around it"),)
    if refused is None:
        fitted = fit(table, law.name, floor=known_floor, bootstrap=0, full=False)
        sigma = fit_sigma(fitted.residual(), len(fitted.theta_P))
        return (Assumption(fitted, sigma, f"the fit of {len(table)} runs"),)
    slope = ray_slope(table)
    if slope is None:
        raise Refusal(f"{refused} To reckon which runs would cure it, assume a law: its parameters, or a fit.json.")
    return along_ray(table, law, slope, known_floor)
