"""The base of the plans that compare arms, each tuned in the same way, and the file that `sessionrec compare` reads.

An arm is one line of a table: a model with its settings. Every arm gets the same learning rates and table priors for
each seed, and the best of its runs is chosen on the validation sessions. It runs at equal epochs (as many passes as the
reference) and at equal compute (as many FLOPs as the reference). Where the two differ by less than five per cent they
are the same runs.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from experiments.plans import batch_rows, rates
from experiments.sweep.layout import Layout
from sessionrec_jax.config.rules import check
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace, run_id
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.row_columns import LOSS, RANK_LOSS, VALIDATION_NDCG

_SAME = 0.05
"""Relative difference in epochs below which two budgets are one."""


class Arm(NamedTuple):
    """One line of a table."""

    table: str
    name: str
    config: Config
    """At the plan's epochs, not yet tuned."""
    is_reference: bool = False
    """True for the line that the others of its table are compared with, and whose FLOPs they may spend."""


@dataclass(frozen=True)
class ArmsPlan:
    """The tuning and the repeats that every arm gets."""

    learning_rates: tuple[float, ...] = (1e-3, 3e-3)
    """Peak learning rates that every arm may choose from, by NDCG@50 on the validation sessions."""
    table_priors: tuple[float, ...] = (0.0,)
    """Priors on the ID table that every arm may choose from, each with every learning rate."""
    epochs: float = 3.0
    """Passes over the training sessions: of every arm at equal epochs, of the reference at equal compute."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of every arm."""
    halving: bool = False
    """Drop the learning rates whose NDCG@50 on the validation sessions is worst after a quarter and after a half of the
    steps, never below two for each table prior."""

    SETS: ClassVar[dict[str, str]] = {
        "optim.learning_rate_peak": "--learning-rates",
        "optim.table_prior": "--table-priors",
        "train.epochs": "--epochs",
        "train.seed": "--seeds",
    }
    """Settings that the plan decides itself, each with the flag that decides it."""

    def lay_out_arms(self, arms: list[Arm], prepared: Prepared) -> Layout:
        """Returns the runs of all arms at both budgets, and comparison.json."""
        from sessionrec_jax.loss.calibration import uncalibrated  # starts jax, which --help need not wait for

        resolved = batch_rows.laid_out((arm.config for arm in arms), prepared)
        arms = [arm._replace(config=config) for arm, config in zip(arms, resolved, strict=True)]
        references = {arm.table: arm.config for arm in arms if arm.is_reference}
        configs: dict[str, Config] = {}
        entries: list[dict[str, Any]] = []
        for arm in arms:
            for budget, config in _at_both_budgets(arm, references[arm.table], prepared).items():
                runs = {str(seed): self._trials(config, seed) for seed in self.seeds}
                configs |= {run_id(trial): trial for trials in runs.values() for trial in trials}
                ids = {seed: [run_id(trial) for trial in trials] for seed, trials in runs.items()}
                entry = {"table": arm.table, "budget": budget, "arm": arm.name, "is_reference": arm.is_reference}
                spoilt = [column for column in (LOSS, RANK_LOSS) if uncalibrated(config, column)]
                entries.append(entry | {"runs": ids, "uncalibrated": spoilt})
        return Layout(list(configs.values()), {"comparison.json": {"select_by": VALIDATION_NDCG, "arms": entries}})

    def _trials(self, config: Config, seed: int) -> list[Config]:
        """The run at each table prior and learning rate."""
        if self.halving:
            rates.check_halving(self.learning_rates)
        tuned = "halving" if self.halving else "tuned"
        rule = tuned if len(self.learning_rates) > 1 else "fixed"
        seeded = replace(config, {"train.seed": seed, "optim.learning_rate_rule": rule})
        tried = itertools.product(self.table_priors, self.learning_rates)
        return [
            check(replace(seeded, {"optim.table_prior": prior, "optim.learning_rate_peak": rate}))
            for prior, rate in tried
        ]


def _at_both_budgets(arm: Arm, reference: Config, prepared: Prepared) -> dict[str, Config]:
    from experiments.sweep.cost import at_equal_compute

    equal_compute = arm.config
    if not arm.is_reference:
        found = at_equal_compute(arm.config, reference, prepared)
        if abs(found.train.epochs / arm.config.train.epochs - 1) >= _SAME:
            equal_compute = found
    return {"equal epochs": arm.config, "equal compute": equal_compute}
