"""Plans that compare arms, each tuned alike: what they share, and the file that tells `sessionrec compare` about them.

Every arm gets the same trials (learning rates) for each seed and is chosen among them on the validation sessions. It
runs at equal epochs (as many passes as the reference) and at equal compute (as many FLOPs as the reference); where the
two are the same within five per cent they are the same runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from experiments.sweep.layout import Layout
from sessionrec_jax.config.rules import check
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace, run_id
from sessionrec_jax.data.store import Prepared

SELECT_BY = "validation_ndcg_at_50"
_SAME = 0.05


class Arm(NamedTuple):
    """One line of a table."""

    table: str
    name: str
    config: Config
    """At the plan's epochs, not yet tuned."""
    is_reference: bool = False
    """The line that the others of its table are held against, and whose FLOPs they may spend."""


@dataclass(frozen=True)
class Trials:
    """How every arm is tuned and repeated."""

    learning_rates: tuple[float, ...] = (1e-3, 3e-3)
    """Peak learning rates that every arm may choose from, by NDCG@50 on the validation sessions."""
    epochs: float = 3.0
    """Passes over the training sessions: of every arm at equal epochs, of the reference at equal compute."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of every arm."""

    SETS: ClassVar[dict[str, str]] = {
        "optim.learning_rate_peak": "--learning-rates",
        "train.epochs": "--epochs",
        "train.seed": "--seeds",
    }
    """Settings that the plan decides, and the flag that they are decided by."""

    def lay_out_arms(self, arms: list[Arm], prepared: Prepared) -> Layout:
        """The runs of all arms at both budgets, and comparison.json."""
        from experiments.sweep.cost import at_equal_compute
        from sessionrec_jax.data.resolve import resolve  # starts jax, which --help need not wait for

        arms = [arm._replace(config=resolve(arm.config, prepared)) for arm in arms]
        reference = {arm.table: arm.config for arm in arms if arm.is_reference}
        configs: dict[str, Config] = {}
        told = []
        for arm in arms:
            equal_compute = arm.config
            if not arm.is_reference:
                equal_compute = at_equal_compute(arm.config, reference[arm.table], prepared)
                if abs(equal_compute.train.epochs / arm.config.train.epochs - 1) < _SAME:
                    equal_compute = arm.config
            for budget, config in (("equal epochs", arm.config), ("equal compute", equal_compute)):
                runs = {str(seed): self._of_seed(config, seed) for seed in self.seeds}
                configs |= {run_id(config): config for of_seed in runs.values() for config in of_seed}
                told.append(
                    {
                        "table": arm.table,
                        "budget": budget,
                        "arm": arm.name,
                        "is_reference": arm.is_reference,
                        "runs": {seed: [run_id(config) for config in of_seed] for seed, of_seed in runs.items()},
                    }
                )
        return Layout(list(configs.values()), {"comparison.json": {"select_by": SELECT_BY, "arms": told}})

    def _of_seed(self, config: Config, seed: int) -> list[Config]:
        rule = "tuned" if len(self.learning_rates) > 1 else "fixed"
        of_seed = replace(config, {"train.seed": seed, "optim.learning_rate_rule": rule})
        return [check(replace(of_seed, {"optim.learning_rate_peak": rate})) for rate in self.learning_rates]
