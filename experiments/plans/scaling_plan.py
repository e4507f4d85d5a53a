"""What the plans of a scaling law share: model sizes at their learning rates, seeds, and how a plan is made wider."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from experiments.plans import rates
from experiments.plans.sizes import sized
from experiments.sweep.layout import Layout
from sessionrec_jax.config.rules import check
from sessionrec_jax.config.settings import Config, Optim
from sessionrec_jax.config.values import replace, run_id
from sessionrec_jax.data.codes import ROLES
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.errors import InputError

P = TypeVar("P", bound="Scaled")

COLUMNS = {
    "n": "params_body",
    "d": "sessions_unique",
    "loss": "loss_nats_per_item",
    "baseline": "loss_baseline_nats_per_item",
    "floor_column": "loss_floor_nats_per_item",
}
"""Which columns of the rows a fit or a report reads, unless told otherwise or a plan has another axis."""
OF_RANK_LOSS = {
    "loss": "rank_nats_per_exposure",  # rank_paired_nats_per_exposure where the truth is known
    "baseline": "rank_baseline_nats_per_exposure",
    "floor_column": "rank_floor_nats_per_exposure",
}
"""The same where the runs measure the rank loss alone (data.eval_candidates)."""
SELECT_BY = "validation_objective"


@dataclass(frozen=True)
class Scaled:
    """Sizes x learning rates x seeds, of whatever else a plan varies."""

    sizes: tuple[str, ...] = ("s",)
    """Names of the size ladder (xxs to 4xl, experiments/base.py), or WIDTHxLAYERSxHEADS such as 24x1x2."""
    learning_rates: tuple[float, ...] = ()
    """Peak learning rates to choose from by validation in each cell. Left out: 3e-3."""
    learning_rates_from: Path | None = None
    """learning_rates.json of a sweep of the plan `learning_rate`: each size runs at its own best rate."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of every run."""

    SETS: ClassVar[dict[str, str]] = {
        "model.width": "--sizes",
        "model.layers": "--sizes",
        "model.heads": "--sizes",
        "optim.learning_rate_peak": "--learning-rates",
        "train.seed": "--seeds",
    }
    """Settings that the plan decides, and the flag that they are decided by."""

    def each(self, base: Config, changes: Iterable[dict[str, Any]]) -> list[Config]:
        """`base` with each of the changes, at every size, learning rate and seed; each run once.

        Raises InputError for what cannot run.
        """
        at = self._rates(base)
        found = {}
        for change, size, seed in itertools.product(changes, self.sizes, self.seeds):
            for rate in at[size]:
                of_rate = {"optim.learning_rate_peak": rate, "train.seed": seed}
                config = replace(sized(base, size), change | of_rate)
                if self.learning_rates_from or len(at[size]) > 1:
                    config = replace(config, {"optim.learning_rate_rule": "tuned"})
                found.setdefault(run_id(config), check(config))
        return list(found.values())

    def report(self, columns: dict[str, Any], law: str | None) -> dict[str, Any]:
        """report.json: the columns, the law (none: a plan that has none to fit), and how tuned runs are chosen."""
        within = list(dict.fromkeys((columns["d"], "params_body", "seed")))
        selected = {"select_by": SELECT_BY, "select_within": within}
        return columns | selected | ({} if law is None else {"law": law})

    def untuned(self: P) -> P:
        """At one seed and one learning rate: for candidates of runs to add."""
        return dataclasses.replace(self, seeds=self.seeds[:1], learning_rates=(), learning_rates_from=None)

    def _rates(self, base: Config) -> dict[str, Sequence[float]]:
        if self.learning_rates_from is None:
            return dict.fromkeys(self.sizes, self.learning_rates or (Optim().learning_rate_peak,))
        if self.learning_rates:
            raise InputError("--learning-rates and --learning-rates-from both say at which rates to run; give one")
        return {size: (rate,) for size, rate in rates.read(self.learning_rates_from, base, self.sizes).items()}


def lay_out(configs: Iterable[Config], prepared: Prepared, report: dict[str, Any]) -> Layout:
    """The runs, resolved, and the file that says how they are read: by the loss that they measure."""
    from experiments.plans.theory import theory  # starts jax, which --help need not wait for
    from sessionrec_jax.data.resolve import resolve
    from sessionrec_jax.evaluation.measure import known_truth

    resolved = [resolve(config, prepared) for config in configs]
    truth = known_truth(prepared.path, prepared.fingerprint)
    if resolved[0].data.eval_candidates == "shown":
        report = report | OF_RANK_LOSS
        if truth is not None:
            report["loss"] = "rank_paired_nats_per_exposure"
    known = truth and theory(report, resolved, prepared, truth)
    return Layout(resolved, {"report.json": report} | ({"theory.json": known} if known else {}))


def training_users(prepared: Prepared) -> int:
    """How many a log has."""
    return len(prepared.users_of(ROLES.index("train")))


def thirds(largest: int, count: int) -> tuple[int, ...]:
    """`largest` and others below it, each a third of the next, `count` together; ascending."""
    return tuple(sorted({max(1, largest // 3**k) for k in range(count)}))


def wider(values: Sequence[float], lowest: float, highest: float) -> tuple[int, ...]:
    """Whole numbers from `lowest` to `highest`: the values, the geometric means between, and two more at either end."""
    log = np.log(sorted(set(values)))
    step = np.diff(log).mean() if len(log) > 1 else np.log(3)
    ends = [log[0] - 2 * step, log[0] - step, log[-1] + step, log[-1] + 2 * step]
    found = np.exp([*log, *((log[1:] + log[:-1]) / 2), *ends])
    return tuple(sorted({round(float(value)) for value in np.clip(found, lowest, highest)}))
