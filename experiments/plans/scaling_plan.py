"""The base of the plans for scaling laws: sizes at their learning rates, seeds, and the columns that a fit reads."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from experiments.plans import batch_rows, rate_law, rates
from experiments.plans.sizes import sized
from experiments.sweep.layout import Layout
from sessionrec_jax.config.rules import check
from sessionrec_jax.config.settings import Config, Optim
from sessionrec_jax.config.values import replace, run_id
from sessionrec_jax.data.codes import ROLES
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.errors import InputError
from sessionrec_jax.row_columns import FIT, FIT_RANK, OBJECTIVE, PARAMS, RANK_LOSS_EXACT, RANK_LOSS_PAIRED


@dataclass(frozen=True)
class ScalingPlan:
    """Sizes x learning rates x seeds x the settings that a plan adds by `changes`."""

    sizes: tuple[str, ...] = ("s",)
    """Names of the size ladder (xxs to 4xl, experiments/plans/sizes.py), or WIDTHxLAYERSxHEADS such as 24x1x2."""
    learning_rates: tuple[float, ...] = ()
    """Peak learning rates to choose from by validation in each cell. Left out: 3e-3."""
    learning_rates_from: Path | None = None
    """learning_rates.json of a sweep of the plan `learning_rate`: each size runs at its own best rate and batch. Or the
    file of `sessionrec rates SWEEP --json`: each run has the rate and batch that the law gives for its N and D."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of every run."""
    halving: bool = False
    """Drop the learning rates that validate worst after a quarter and after a half of the steps, never below two."""

    SETS: ClassVar[dict[str, str]] = {
        "model.width": "--sizes",
        "model.layers": "--sizes",
        "model.heads": "--sizes",
        "optim.learning_rate_peak": "--learning-rates",
        "train.seed": "--seeds",
    }
    """Settings that the plan decides itself, each with the flag that decides it."""
    COLUMNS: ClassVar[dict[str, str | None]] = FIT
    """Columns of the rows that a fit or a report reads."""
    law: ClassVar[str] = "none"
    """The law to fit. A plan that has one makes this a field, so that it is a flag."""

    def changes(self, base: Config, users: int) -> Iterable[dict[str, Any]]:
        """The settings that the plan varies besides size, rate and seed. `users`: training users of the log."""
        return [{}]

    def lay_out(self, base: Config, prepared: Prepared) -> Layout:
        """Returns every run, each once, and report.json: the columns that `sessionrec fit` and `report` read.

        Raises InputError for settings that cannot run.
        """
        return layout(self.configs(base, training_users(prepared)), prepared, self.report(), self.rate_law)

    @property
    def rate_law(self) -> Path | None:
        """The file of --learning-rates-from if it has a law, which then gives each run of `configs` its rate."""
        path = self.learning_rates_from
        return path if path is not None and rate_law.is_law(path) else None

    def configs(self, base: Config, users: int) -> list[Config]:
        """`base` with each of the changes, at every size, learning rate and seed; each run once."""
        tuned_of = self._tuned(base)
        found = {}
        for change, size, seed in itertools.product(self.changes(base, users), self.sizes, self.seeds):
            for tuned in tuned_of[size]:
                own = tuned | {"train.seed": seed}
                if self.learning_rates_from or len(tuned_of[size]) > 1:
                    own["optim.learning_rate_rule"] = "halving" if self.halving else "tuned"
                config = replace(sized(base, size), change | own)
                found.setdefault(run_id(config), check(config))
        return list(found.values())

    def report(self) -> dict[str, Any]:
        """report.json: the columns, how tuned runs are chosen, and the law, if there is one to fit."""
        within = list(dict.fromkeys((self.COLUMNS["d"], PARAMS, "seed")))
        selection = {"select_by": OBJECTIVE, "select_within": within}
        return self.COLUMNS | selection | ({} if self.law == "none" else {"law": self.law})

    def more(self, base: Config, users: int) -> dict[str, Any]:
        """Fields with more values, for candidates of runs to add if this plan cannot identify its law."""
        return {}

    def wider(self, base: Config, prepared: Prepared) -> Self:
        """The plan with `more` values, at its first seed and its first learning rate."""
        untuned = {"seeds": self.seeds[:1], "learning_rates": self.learning_rates[:1]}
        untuned |= {"learning_rates_from": None, "halving": False}
        return dataclasses.replace(self, **untuned, **self.more(base, training_users(prepared)))

    def _tuned(self, base: Config) -> dict[str, list[dict[str, Any]]]:
        """Returns the settings to tune over at each size, or those that were found."""
        if self.learning_rates_from is None:
            tried = self.learning_rates or (Optim().learning_rate_peak,)
            if self.halving:
                rates.check_halving(tried)
            return {size: [{"optim.learning_rate_peak": rate} for rate in tried] for size in self.sizes}
        if self.halving:
            raise InputError("--halving drops learning rates, but --learning-rates-from gives each size one; give one")
        if self.learning_rates:
            raise InputError("--learning-rates and --learning-rates-from both say at which rates to run; give one")
        if self.rate_law is not None:
            rate_law.check(self.rate_law, base)
            return {size: [rate_law.fixed_rows(self.rate_law)] for size in self.sizes}
        return {
            size: [{"optim.learning_rate_peak": rate, "data.rows": rows, "data.rows_auto": False}]
            for size, (rate, rows) in rates.read(self.learning_rates_from, base, self.sizes).items()
        }


def layout(
    configs: Iterable[Config], prepared: Prepared, report: dict[str, Any], law_of_rates: Path | None = None
) -> Layout:
    """The runs, resolved, with the rates of `law_of_rates` if there is one; report.json, with the loss that they
    measure; theory.json where the truth is known."""
    from experiments.plans.theory import theory  # starts jax, which --help need not wait for
    from sessionrec_jax.data.synthetic.known import known_truth
    from sessionrec_jax.evaluation.exact import has_exact_rank_loss

    resolved = batch_rows.laid_out(configs, prepared)
    if law_of_rates is not None:
        resolved = rate_law.applied(law_of_rates, resolved)
    truth = known_truth(prepared)
    if resolved[0].data.eval_candidates == "shown":  # the runs measure the rank loss alone
        exact = RANK_LOSS_EXACT if has_exact_rank_loss(resolved[0]) else RANK_LOSS_PAIRED
        report = report | FIT_RANK | ({} if truth is None else {"loss": exact})
    _refuse_uncalibrated(report, resolved)
    known = truth and theory(report, resolved, prepared, truth)
    return Layout(resolved, {"report.json": report} | ({"theory.json": known} if known else {}))


def _refuse_uncalibrated(report: dict[str, Any], configs: Sequence[Config]) -> None:
    """Raises InputError if the plan has a law and a run's loss column is no calibrated likelihood. A plan without a law
    compares ranks, so it may have such runs."""
    from sessionrec_jax.loss.calibration import uncalibrated  # starts jax, which --help need not wait for

    why = next(filter(None, (uncalibrated(config, report["loss"]) for config in configs)), None)
    if "law" in report and why:
        raise InputError(
            f"the plan's law is of {report['loss']}, which these settings leave uncalibrated: {why}. Without a law "
            "(--law none) the plan may compare ranks."
        )


def training_users(prepared: Prepared) -> int:
    """The number of training users of a log."""
    return len(prepared.users_of(ROLES.index("train")))


def thirds(largest: int, count: int) -> tuple[int, ...]:
    """Returns `count` numbers in ascending order: `largest`, and others that are each a third of the next."""
    return tuple(sorted({max(1, largest // 3**k) for k in range(count)}))


def around_values(values: Sequence[float], lowest: float, highest: float) -> tuple[int, ...]:
    """Returns whole numbers from `lowest` to `highest`: the values, the geometric means between them, and two more at
    either end."""
    log = np.log(sorted(set(values)))
    step = np.diff(log).mean() if len(log) > 1 else np.log(3)
    ends = [log[0] - 2 * step, log[0] - step, log[-1] + step, log[-1] + 2 * step]
    found = np.exp([*log, *((log[1:] + log[:-1]) / 2), *ends])
    return tuple(sorted({round(float(value)) for value in np.clip(found, lowest, highest)}))
