"""Fits the laws of the best rate and batch to a table of runs.

Letters: C cells, A settings, P parameters, S bootstrap draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from scaling.errors import Refusal
from scaling.fitting.choices import check_draws
from scaling.fitting.intervals import NORMAL95
from scaling.rates.cells import SETTINGS, Cell, Setting, cells_of, repeated, same
from scaling.rates.censored import Observed, regress
from scaling.rates.law import RateLaw
from scaling.rates.minimum import Minimum, minimum, quadratics, too_few
from scaling.rates.result import LeftOut, RatesFit
from scaling.table.columns import Columns
from scaling.table.run_table import RunTable, read

LEAST_SPAN = 4.0
"""An axis spans at least this factor over the cells, or does not vary at all."""
LEAST_VALUES = 3
"""The least number of values of an axis."""
LEAST_SPARE = 3
"""The least number of cells with a value, beyond the number of parameters."""
RAY = 0.1
"""N and D are one variable if their logs spread less off a line (standard deviation)."""
BENDS = 0.005
"""The p-value from which on the cells are said to bend away from a power law."""
FAR_OFF = 3.5
"""A cell is named if it is this many standard deviations off the law."""
LEAST_REPEATS = 3
"""Degrees of freedom of repeated runs from which on they give the noise of a run."""


def fit_rates(
    table: Any,
    *,
    rate: str,
    batch: str | None = None,
    n: str | None = None,
    d: str | None = None,
    loss: str | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> RatesFit:
    """Fits rate* = c N^a D^b, and batch* likewise where a batch is named, to the minima of cells of equal N and D.

    Args:
      table: as for `scaling.read`, or a RunTable. One row is a run: nothing is chosen among the rates beforehand.
      rate: the column of the peak learning rate.
      batch: the column of the batch size, in any unit; None where it was not varied. The best rate of a cell is then
        that of its best batch.
      n: the column of the size N. It may be missing where all runs have one size.
      d: the column of the data D.
      loss: the column of the loss, in nats.
      bootstrap: resamplings of the cells' minima from the fitted law; 0 gives no intervals.
      seed: the seed of the resampling.

    Raises:
      InputError: a column is missing or has a value that is not a number above 0.
      Refusal: too few cells have a minimum inside of what was tried, or they do not span enough of N and D.

    Source: the form of the law is that of Step Law (Li et al. 2025, 2503.04715).
    """
    check_draws(bootstrap)
    runs = table if isinstance(table, RunTable) else read(table, Columns(n=n, d=d, loss=loss))
    cells = cells_of(runs, rate, batch)
    minima, left_out, noise = minima_of(cells)
    generator = np.random.default_rng(seed)
    laws: dict[Setting, RateLaw] = {}
    warnings: list[str] = []  # those of the table are about laws of the loss
    for place, setting in enumerate(SETTINGS[: 1 if batch is None else 2]):
        try:
            laws[setting], texts = _law(setting, place, minima, len(cells), bootstrap=bootstrap, generator=generator)
            warnings += texts
        except Refusal as refusal:
            if setting == "rate":
                raise
            warnings.append(f"There is no law of the batch: {refusal}")
    columns = {"rate": rate, "batch": batch, "n": runs.columns.n, "d": runs.columns.d, "loss": runs.columns.loss}
    return RatesFit(
        columns=columns,
        rate=laws["rate"],
        batch=laws.get("batch"),
        minima=tuple(minima),
        left_out=tuple(left_out),
        run_noise=noise[0],
        noise_from=noise[1],
        excluded=runs.excluded_by_rule(),
        data_hash=runs.data_hash(),
        source=runs.source,
        warnings=tuple(dict.fromkeys(warnings)),
    )


def minima_of(cells: Sequence[Cell]) -> tuple[list[Minimum], list[LeftOut], tuple[float, str]]:
    """Returns the minima of the cells, the cells without one, and the noise of a run with its origin.

    Raises Refusal where no cell has enough rates.
    """
    left_out = [LeftOut(cell.n, cell.d, len(cell.log_loss_R), why) for cell in cells if (why := too_few(cell))]
    whole = [cell for cell in cells if too_few(cell) is None]
    if not whole:
        raise Refusal(
            f"no cell of one N and D has enough runs; {cells[0].place} has {left_out[0].reason}. Run each N and D at 5 "
            "rates or more, a factor of 2 apart."
        )
    found = quadratics(whole)
    pooled = sum(each.square for each in found) / max(sum(each.spare for each in found), 1e-9)
    square, spare = repeated(list(whole))
    of_run, origin = (square / spare, "repeated runs") if spare >= LEAST_REPEATS else (pooled, "the cells' quadratics")
    minima = [minimum(cell, each, pooled, of_run) for cell, each in zip(whole, found, strict=True)]
    left_out += [
        LeftOut(each.cell.n, each.cell.d, len(each.cell.log_loss_R), each.refused) for each in minima if each.refused
    ]
    return minima, left_out, (float(np.sqrt(of_run)), origin)


def _law(
    setting: Setting,
    place: int,
    minima: Sequence[Minimum],
    cells: int,
    *,
    bootstrap: int,
    generator: np.random.Generator,
) -> tuple[RateLaw, list[str]]:
    """Returns the law of one setting, which is at `place` among the settings, and warnings. `cells` counts them all."""
    used = [each for each in minima if each.side_A[place] != "unknown"]
    inside = np.array([each.side_A[place] == "inside" for each in used], bool)
    axes, notes = _axes(setting, used, inside, minima)
    values = int(inside.sum())
    wanted = len(axes) + 1 + LEAST_SPARE
    if values < wanted:
        at_edge = len(used) - values
        raise Refusal(
            f"{values} of {cells} cells show a best "
            f"{setting} inside of what was tried, and a law of {' and '.join(a.upper() for a in axes)} wants {wanted}. "
            f"{at_edge} have it at an edge: run {_beyond(used, place)} there. Or run more sizes or amounts of data."
        )
    point_A = {axis: np.log([getattr(each.cell, axis) for each in used]) for axis in axes}
    centre = {axis: float(np.exp(x.mean())) for axis, x in point_A.items()}
    design_GP = np.column_stack([np.ones(len(used)), *(x - x.mean() for x in point_A.values())])
    stderr_G = np.array([each.stderr_A[place] for each in used])
    stderr_G = np.where(inside, stderr_G, np.median(stderr_G[inside]))
    value_G = np.array([each.log_A[place] for each in used])
    side_G = np.array([{"above": 1, "below": -1}.get(each.side_A[place], 0) for each in used])
    observed = Observed(value_G[None], side_G[None])
    fitted = regress(observed, design_GP, stderr_G)
    theta_P, scatter = fitted.beta_SP[0], float(fitted.scatter_S[0])
    sigma_G = np.sqrt(stderr_G**2 + scatter**2)
    ends_GE = np.array([(each.low_A[place], each.high_A[place]) for each in used])
    cloud_SP = _bootstrap(
        theta_P, design_GP, sigma_G=sigma_G, stderr_G=stderr_G, ends_GE=ends_GE, draws=bootstrap, generator=generator
    )
    ranges = {}
    for axis in ("n", "d"):
        at = [getattr(each.cell, axis) for each in used]
        if None not in at:
            ranges[axis] = min(at), max(at)
    law = RateLaw(setting, tuple(axes), theta_P, cloud_SP, centre, ranges, scatter, values, len(used) - values)
    z_G = (value_G - design_GP @ theta_P) / sigma_G
    return law, notes + _residuals(setting, z_G[inside], design_GP[inside], [each for each in used if _in(each, place)])


def _in(each: Minimum, place: int) -> bool:
    return each.side_A[place] == "inside"


def _beyond(used: Sequence[Minimum], place: int) -> str:
    sides = {each.side_A[place] for each in used}
    words = [word for side, word in (("above", "higher"), ("below", "lower")) if side in sides]
    return f"{' and '.join(words) or 'other'} values"


def _axes(
    setting: Setting, used: Sequence[Minimum], inside: np.ndarray, minima: Sequence[Minimum]
) -> tuple[list[str], list[str]]:
    """Returns the axes that vary over the cells with a value, and notes about those that do not.

    Raises Refusal for an axis that varies too little, and where N and D vary together.
    """
    axes, notes = [], []
    cells = [each.cell for each, is_in in zip(used, inside, strict=True) if is_in]
    for axis in ("n", "d"):
        if any(getattr(each.cell, axis) is None for each in minima):
            notes.append(f"The table has no {axis.upper()}, so the law of the {setting} is of one {axis.upper()}.")
            continue
        log_C = np.log([getattr(cell, axis) for cell in cells])
        if len(np.unique(same(np.log([getattr(each.cell, axis) for each in minima])))) == 1:
            value = getattr(minima[0].cell, axis)
            notes.append(
                f"All cells have {axis.upper()} {value:.4g}: the law of the {setting} has no exponent of "
                f"{axis.upper()}, and is known at that {axis.upper()} alone."
            )
            continue
        distinct = len(np.unique(same(log_C))) if len(log_C) else 0
        span = float(np.exp(np.ptp(log_C))) if len(log_C) else 1.0
        if distinct < LEAST_VALUES or span < LEAST_SPAN:
            raise Refusal(
                f"the cells that show a best {setting} have {distinct} values of {axis.upper()} over a factor of "
                f"{span:.3g}; its exponent wants at least {LEAST_VALUES} over a factor of {LEAST_SPAN:g}. Run other "
                f"{axis.upper()}, or fit the runs of one {axis.upper()}."
            )
        axes.append(axis)
    if not axes:
        raise Refusal("all cells have one N and one D: there is nothing that the best rate could depend on. Run others")
    if len(axes) == 2:
        log_C2 = np.log([[getattr(cell, axis) for axis in axes] for cell in cells])
        spread = float(np.sqrt(max(np.linalg.eigvalsh(np.cov(log_C2.T, bias=True))[0], 0.0)))
        if spread < RAY:
            raise Refusal(
                f"N and D of the cells that show a best {setting} vary together (spread off their line {spread:.2g} in "
                "log): their exponents cannot be separated. Run some N at several D."
            )
    return axes, notes


def _bootstrap(
    theta_P: np.ndarray,
    design_GP: np.ndarray,
    *,
    sigma_G: np.ndarray,
    stderr_G: np.ndarray,
    ends_GE: np.ndarray,
    draws: int,
    generator: np.random.Generator,
) -> np.ndarray:
    """Returns the parameters of minima drawn from the law, [S, P], moved out by Student's t over the normal.

    A drawn minimum outside of what its cell has tried becomes a bound, as in the data. Draws with too few values left
    are not counted.
    """
    from scipy.special import stdtrit

    P = len(theta_P)
    if not draws:
        return np.empty((0, P))
    drawn_SG = design_GP @ theta_P + sigma_G * generator.normal(size=(draws, len(sigma_G)))
    side_SG = np.where(drawn_SG > ends_GE[:, 1], 1, np.where(drawn_SG < ends_GE[:, 0], -1, 0))
    value_SG = np.clip(drawn_SG, ends_GE[:, 0], ends_GE[:, 1])
    enough_S = (side_SG == 0).sum(axis=1) > P
    found = regress(Observed(value_SG[enough_S], side_SG[enough_S]), design_GP, stderr_G)
    spare = max(len(sigma_G) - P, 1)
    return theta_P + stdtrit(spare, 0.975) / NORMAL95 * (found.beta_SP - theta_P)


def _residuals(setting: Setting, z_G: np.ndarray, design_GP: np.ndarray, minima: Sequence[Minimum]) -> list[str]:
    """Returns warnings: the cells far off the law, and a bend of the cells away from it (F test of squared terms)."""
    from scipy.special import fdtrc

    texts = [
        f"The best {setting} of {each.cell.place} is {z:+.1f} standard deviations off the law."
        for each, z in zip(minima, z_G, strict=True)
        if abs(z) > FAR_OFF
    ]
    away_GA = design_GP[:, 1:]
    axes = away_GA.shape[1]
    squares = [away_GA[:, a] * away_GA[:, b] for a in range(axes) for b in range(a, axes)]
    full_GK = np.column_stack([design_GP, *squares])
    spare = len(z_G) - full_GK.shape[1]
    if spare < LEAST_SPARE:
        return texts
    before, after = (
        float(np.sum((z_G - x @ np.linalg.lstsq(x, z_G, rcond=None)[0]) ** 2)) for x in (design_GP, full_GK)
    )
    p_value = float(fdtrc(len(squares), spare, (before - after) / len(squares) / max(after / spare, 1e-300)))
    if p_value <= BENDS and before > 1e-9 * len(z_G):
        texts.append(
            f"The best {setting} bends away from a power law (p {p_value:.2g}); trust the law between the cells alone."
        )
    return texts
