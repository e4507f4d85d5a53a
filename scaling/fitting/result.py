"""The result of a fit: a law with its parameters, its checks and the table behind them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scaling.fitting.export import plain, write_json
from scaling.fitting.fitted import FittedLaw
from scaling.fitting.forms import Forms
from scaling.fitting.heldout import HeldOutRun, count_inside, rms_log_error
from scaling.fitting.influence import Influence
from scaling.fitting.intervals import Interval
from scaling.fitting.isoflop_gap import IsoFlopGap
from scaling.fitting.minimize import Objective
from scaling.fitting.misfit import Misfit, judge
from scaling.fitting.noise import SeedNoise
from scaling.fitting.notebook import as_html
from scaling.fitting.other_columns import OtherColumn
from scaling.fitting.profile import LikelihoodProfile
from scaling.fitting.run_noise import run_noise95
from scaling.fitting.sensitivity import Variant
from scaling.fitting.trend import Trend
from scaling.laws.registry import FLOOR
from scaling.table.run_table import RunTable


@dataclass(frozen=True)
class Minimum:
    """One of the competing minima of a fit."""

    objective: float
    gap: float
    """Objective over the lowest one's, minus 1."""
    params: dict[str, float]


@dataclass(frozen=True)
class FreeFloor:
    """The same law with its floor fitted, as a check on a known one."""

    value: float | None
    interval95: Interval
    agrees: bool | None
    """True if the known floor is within the interval; null where the interval has neither end."""


@dataclass(frozen=True)
class Fit(FittedLaw):
    """A fitted law. `params` and `interval95` hold None for an open parameter, which the data do not determine; its
    known ends are in `bounds`. Predictions are always possible, because they need no single parameter's value."""

    table: RunTable
    objective: Objective
    objective_value: float
    params: dict[str, float | None]
    interval95: dict[str, tuple[float, float] | None]
    bounds: dict[str, Interval]
    """The bounds of the open parameters."""
    sizes_at_centre: dict[str, float]
    """Each term's part of the response at the centre of the data."""
    sizes_at_centre95: dict[str, tuple[float, float] | None]
    profile: dict[str, LikelihoodProfile]
    """{fitted parameter: its profile likelihood}, for sizes at the centre. Empty if it was not asked for."""
    minima: tuple[Minimum, ...]
    trend: Trend | None
    """The trend of the residuals, None for too few independent runs."""
    isoflop: IsoFlopGap | None
    """The exponents of N* through the minima of budgets and by the law. None where the table has too few budgets."""
    heldout: tuple[HeldOutRun, ...]
    shift: Trend | None
    """The test of the held-out runs against the others. None where nothing was held out, or for too few runs."""
    forms: Forms | None
    variants: tuple[Variant, ...]
    """The same law under other objectives, with the dropped runs back, and without the runs of `influences`."""
    influences: tuple[Influence, ...]
    """Single runs that decide the fit."""
    others: tuple[OtherColumn, ...]
    """Columns that the law does not have and that the residuals vary with."""
    warnings: tuple[str, ...]
    free_floor: FreeFloor | None
    residual_sigma: float
    """Robust standard deviation of the log response around the law, 1.4826 median |r|."""
    seed_noise: SeedNoise | None
    """The spread between repeats. None where no run was repeated."""
    lack_of_fit: Trend | None
    """The test of the misfit against the spread between repeats. None where there are too few repeats."""
    draws_SP: np.ndarray
    """The theta of the bootstrap draws, before `intervals.widened` turns them into `cloud_SP`."""
    bootstrap: int
    """The number of draws that was asked for."""
    seed: int
    asked: dict[str, Any]
    """The arguments `law`, `objective`, `delta`, `floor` and `fix` that the fit was called with."""

    def __repr__(self) -> str:
        values = ", ".join(f"{name} {self.describe(name)}" for name in self.params)
        return f"<Fit of {self.law.name}, {len(self.table)} runs, {self.misfit.verdict}: {values}>"

    def _repr_html_(self) -> str:
        formula = f"{self.law.name}: {self.law.formula}"
        values = {name: self.describe(name) for name in self.params}
        notes = [*self.table.notes, *(f"Warning: {text}" for text in self.warnings)]
        return as_html(self.misfit.sentences, formula, values, notes)

    @property
    def open_intervals(self) -> tuple[str, ...]:
        return tuple(self.bounds)

    @property
    def misfit(self) -> Misfit:
        """The verdict on the law, with its evidence."""
        return judge(
            self.law,
            trend=self.trend,
            repeats=self.lack_of_fit,
            noise=self.seed_noise,
            held=self.heldout,
            shift=self.shift,
            forms=self.forms,
            influences=self.influences,
            others=self.others,
            isoflop=self.isoflop,
        )

    def standard_error(self) -> dict[str, float]:
        """Returns the standard deviation of each parameter's bootstrap draws, {} without draws."""
        draws = self.natural(self.draws_SP)
        return {name: float(values.std()) for name, values in draws.items() if len(values)}

    def residual(self) -> np.ndarray:
        """Returns log response - log law of the fitted rows, [R]."""
        return np.log(self.table.response(self.law)) - np.log(self.loss_at(self.table.points(self.law))[0])

    @property
    def run_noise95(self) -> float:
        """Half the 95 % range of a single run's log response around the law, in nats of log response."""
        return run_noise95(self.residual(), len(np.unique(self.table.cluster)), len(self.theta_P))

    def summary(self) -> str:
        """Returns plain text: verdict, parameters, intervals, warnings. Compare sizes at the centre between fits."""
        lines = [*self.table.notes, *self.misfit.sentences]
        lines.append(f"{self.law.name}: {self.law.formula}   [{self.objective.name}, {len(self.table)} runs]")
        lines += [f"  {name:6s} {self.describe(name)}" for name in self.params]
        lines += [f"  {name} term at the centre: {value:.5g}" for name, value in self.sizes_at_centre.items()]
        return "\n".join(lines + [f"  warning: {text}" for text in self.warnings])

    def describe(self, name: str) -> str:
        """Returns a parameter with its interval, or its bounds, as text."""
        if name == FLOOR.size and self.known_floor is not None:
            return f"{self.known_floor:.7g}  (known)"
        if name not in self.free:
            return f"{self.params[name]:.7g}  (fixed)"
        if name in self.bounds:
            low, high = self.bounds[name]
            ends = ([] if low is None else [f"above {low:.4g}"]) + ([] if high is None else [f"below {high:.4g}"])
            return f"open: {' and '.join(ends)} (95 %)" if ends else "open: the data do not bound it"
        interval = self.interval95[name]
        return f"{self.params[name]:.7g}" + (f"  [{interval[0]:.5g}, {interval[1]:.5g}]" if interval else "")

    def to_dict(self) -> dict[str, Any]:
        """Returns the keys of contract 4 and more, in JSON's types. NaN and infinity become None."""
        values = self.stored() | {
            "formula": self.law.formula,
            "objective_name": self.objective.name,
            "delta": self.objective.delta if self.objective.name == "huber" else None,
            "objective": self.objective_value,
            "n_rows": len(self.table),
            "excluded": [vars(row) for row in self.table.excluded],
            "params": self.params,
            "interval95": self.interval95,
            "standard_error": self.standard_error(),
            "open_intervals": self.open_intervals,
            "bounds": self.bounds,
            "sizes_at_centre": self.sizes_at_centre,
            "sizes_at_centre_interval95": self.sizes_at_centre95,
            "profile": self.profile,
            "verdict": self.misfit.verdict,
            "verdict_sentences": self.misfit.sentences,
            "evidence": self.misfit.evidence,
            "influences": self.influences,
            "isoflop": self.isoflop,
            "residual_sigma": self.residual_sigma,
            "run_noise95": self.run_noise95,
            "seed_noise": self.seed_noise,
            "lack_of_fit": self.lack_of_fit,
            "minima": self.minima,
            "heldout": self.heldout,
            "heldout_rms_log_error": rms_log_error(self.heldout),
            "heldout_inside_band": count_inside(self.heldout),
            "forms": None
            if self.forms is None
            else {name: value for name, value in vars(self.forms).items() if name != "whole"}
            | {"near": self.forms.near, "spread": self.forms.spread},
            "variants": self.variants,
            "warnings": self.warnings,
            "free_floor": self.free_floor,
            "bootstrap": {"draws": self.bootstrap, "converged": len(self.cloud_SP)},
            "seed": self.seed,
            "asked": self.asked,
            "columns": dataclasses.asdict(self.table.columns),
            "drop_worst": self.table.drop_worst,
            "notes": self.table.notes,
            "source": self.table.source,
            "data_hash": self.table.data_hash(),
        }
        return plain(values)

    def to_json(self, path: str | Path) -> None:
        """Writes `to_dict` with all 17 digits. `scaling.load` reads it."""
        write_json(self.to_dict(), Path(path))
