"""The runs to make next, for a table of finished ones. `sessionrec design` prints them.

next_runs(table, "chinchilla", wanted="beta", runs=4)
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from scaling.design.assumption import SIGMA_LEAST, Assumption, along_ray, fit_sigma, ray_slope
from scaling.design.cure import Cure, cure
from scaling.design.identify import Verdict, exponents, identify, planned_points, refusal
from scaling.design.propose import RunProposal, propose
from scaling.errors import InputError, Refusal, near_miss
from scaling.fitting.fit import fit
from scaling.fitting.fitted import FittedLaw
from scaling.fitting.noise import seed_noise
from scaling.laws import registry
from scaling.laws.terms import Points
from scaling.table import checks
from scaling.table.files import load
from scaling.table.run_table import Columns, RunTable, from_frame


@dataclass(frozen=True)
class NextRuns:
    """The runs to make next and the reasons: a cure or a proposal."""

    refused: str | None
    """Why the law cannot be fitted to the table as it is."""
    verdict: Verdict
    cure: Cure | None
    proposal: RunProposal | None


def read_planned(path: str | Path, columns: Columns) -> RunTable:
    """Reads a table of R runs that nobody has made. Only `n`, `d` and `flops` of `columns` count; its loss is a dummy.

    Raises InputError: no such file or column, text or a number not above 0 in it, no rows.
    """
    frame, _ = load(path)
    for flag, name in (("--n", columns.n), ("--d", columns.d), ("--flops", columns.flops)):
        if name is not None and name not in frame.columns:
            raise InputError(f"{path} has no column {name!r} ({flag}); {near_miss(name, frame.columns)}")
    kept = [name for name in dict.fromkeys((columns.n, columns.d, columns.flops)) if name is not None]
    # each row is a run of its own, so that a second seed is no copy
    dummies = [pl.lit(1.0).alias("loss of a plan"), pl.int_range(pl.len()).alias("run of a plan")]
    named = Columns(loss="loss of a plan", run_id="run of a plan", n=columns.n, d=columns.d, flops=columns.flops)
    return from_frame(frame.select(kept + dummies), named, source=str(path))


def design_points(table: RunTable, law: registry.Law) -> Points:
    """Returns N and D of a table's R rows, even if the law has only one of them: both make the cost of a run.

    Raises InputError for a law of other axes, and for a missing column.
    """
    for axis in ("n", "d"):
        if getattr(table, axis) is None:
            raise InputError(f"a design needs {axis.upper()} for the cost of a run: name its column with --{axis}")
    return planned_points(law, table.need("n"), table.need("d"))


def next_runs(
    table: RunTable,
    law: str = "chinchilla",
    *,
    assumed: FittedLaw | None = None,
    source: str = "the given law",
    sigma: float | None = None,
    floor: float | None = None,
    wanted: str | None = None,
    runs: int = 4,
    candidates: Points | None = None,
    flops_limit: float | None = None,
    per: Literal["flop", "run"] = "flop",
) -> NextRuns:
    """Finds the next runs for a table of finished ones.

    If the table is refused for its design, these are the runs that cure it; else those that shrink the interval of
    `wanted` most.

    Args:
      table: finished runs.
      law: a name in `registry.LAWS`, of N and D or one of them.
      assumed: the law to take for true, and `source`, its origin in words. Default: the table's own fit; on a single
        ray, what `assumption.along_ray` lets one assume.
      sigma: standard deviation of log loss around the law, in nats. Default: that of the table's residuals.
      floor: a known irreducible loss. Default: the table's floor column, if it has one.
      wanted: a quantity, see `information.quantity`. Default: beta, or the law's only exponent.
      runs, candidates, flops_limit, per: see `propose`.

    Raises:
      InputError: something was named wrongly, or no candidate is within the limits.
      Refusal: the table cannot carry the law for a reason that no run cures, or no law can be assumed.
    """
    chosen = registry.by_name(law)
    points = design_points(table, chosen)
    known_floor = table.known_floor if floor is None and chosen.has_floor else floor
    refused = _refusal_of(table, chosen, known_floor)
    if assumed is None:
        assumptions = _own_assumptions(table, chosen, known_floor, refused)
    else:
        assumptions = (_with_noise_of(table, assumed, source),)
    if sigma is not None:
        assumptions = tuple(dataclasses.replace(a, sigma=sigma) for a in assumptions)
    if refused is not None and refusal(assumptions[0].law, points)[0] is None:
        raise Refusal(refused)  # the design is not the reason, so no run cures it
    wanted = _default_quantity(assumptions[0].law) if wanted is None else wanted
    verdict = identify(assumptions[0], points, (wanted,))
    if refused is not None:
        found = cure(assumptions, points, candidates=candidates, flops_limit=flops_limit)
        return NextRuns(refused, verdict, found, None)
    proposal = propose(
        assumptions[0], points, wanted, runs=runs, candidates=candidates, flops_limit=flops_limit, per=per
    )
    return NextRuns(None, verdict, None, proposal)


def _default_quantity(fitted: FittedLaw) -> str:
    return "beta" if "beta" in fitted.free else exponents(fitted)[0]


def _refusal_of(table: RunTable, law: registry.Law, known_floor: float | None) -> str | None:
    try:
        checks.refuse(table, law, known_floor)
    except Refusal as reason:
        return str(reason)
    return None


def _own_assumptions(
    table: RunTable, law: registry.Law, known_floor: float | None, refused: str | None
) -> tuple[Assumption, ...]:
    """Assumes the table's own fit, or, if that is refused, what a single ray lets one assume."""
    if refused is None:
        fitted = fit(table, law.name, floor=known_floor, bootstrap=0, full=False)
        sigma = fit_sigma(fitted.residual(), len(fitted.theta_P))
        return (Assumption(fitted, sigma, f"the fit of {len(table)} runs"),)
    exponent = ray_slope(table)
    if exponent is None:
        raise Refusal(f"{refused} To find runs that would cure it, assume a law: its parameters, or a fit.json.")
    return along_ray(table, law, exponent, known_floor)


def _with_noise_of(table: RunTable, fitted: FittedLaw, source: str) -> Assumption:
    """Takes the noise from repeated runs of the table, else from the table's spread around the law."""
    noise = seed_noise(table, fitted.law)
    if noise is not None:
        return Assumption(fitted, max(noise.sigma, SIGMA_LEAST), f"{source}; noise from repeated runs")
    residual_R = np.log(table.response(fitted.law)) - np.log(fitted.loss_at(table.points(fitted.law))[0])
    return Assumption(fitted, fit_sigma(residual_R, 0), f"{source}; noise from the table's spread around it")
