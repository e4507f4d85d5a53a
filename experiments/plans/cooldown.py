"""Plan `cooldown`: runs of several lengths for little more than the price of the longest (Hägele et al. 2405.18392).

The learning rate is constant after the warm-up and falls to zero over the last part of a run (--optim.schedule
cooldown). So the shorter runs of each size, rate and seed have the same first steps as the longest one, their trunk:
they begin from its checkpoints and take only their cooldowns. Each ends with the parameters of the same run done whole,
bit for bit. D is the number of sessions that a run has seen, each once.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import tyro

from experiments.plans.scaling_plan import ScalingPlan
from experiments.plans.sizes import around
from experiments.sweep.layout import Layout
from scaling.laws import registry
from sessionrec_jax.config.rules import check
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace, run_id
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.errors import InputError
from sessionrec_jax.row_columns import PARAMS


@dataclass(frozen=True)
class Plan(ScalingPlan):
    """Lengths x sizes x learning rates x seeds."""

    epochs: tuple[float, ...] = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
    """Lengths, in passes over the training sessions. At most 1, so that no session is seen twice; more with --law
    none."""
    law: Literal["power_floor", "power", "chinchilla", "chinchilla_no_floor", "tied", "kaplan", "gamma", "none"] = (
        "power_floor"
    )
    """The law to fit; a plan that cannot identify it is refused. The first two are laws of D alone. none: no law."""

    halving: tyro.conf.Suppress[bool] = False  # its runs wait for each other's checkpoints already

    SETS: ClassVar[dict[str, str]] = ScalingPlan.SETS | {
        "train.epochs": "--epochs",
        "data.fresh": "nothing, since --epochs are passes over a log",
        "optim.schedule": "nothing, since only a cooldown lets runs share steps",
        "train.validations": "nothing, since their places depend on the length of a run",
        "train.checkpoints_at": "--epochs",
        "train.begins_from": "--epochs",
    }

    def changes(self, base: Config, users: int) -> Iterable[dict[str, Any]]:
        """Raises InputError for sessions that are seen twice, which a law of D does not know."""
        if self.law != "none" and max(self.epochs) > 1:
            raise InputError(
                f"--epochs is {max(self.epochs):g} at most; wanted at most 1, so that no session is seen twice, or "
                "--law none"
            )
        return [{"train.epochs": epochs} for epochs in self.epochs]

    def configs(self, base: Config, users: int) -> list[Config]:
        return super().configs(replace(base, {"optim.schedule": "cooldown"}), users)

    def lay_out(self, base: Config, prepared: Prepared) -> Layout:
        """Returns every run, each once, with the warm-up that all share. Raises InputError where the shortest run has
        no room for it and its cooldown."""
        if self.rate_law is not None:
            raise InputError(
                f"{self.rate_law} gives each length its own rate, and runs that share their first steps have one; give "
                "--learning-rates, or the learning_rates.json of a sweep"
            )
        laid_out = super().lay_out(base, prepared)
        steps = _steps(prepared)
        return laid_out._replace(configs=_branched(_with_one_warmup(laid_out.configs, steps), steps))

    def report(self) -> dict[str, Any]:
        return super().report() | {"select_within": [PARAMS, "seed", "epochs_planned"]}

    def more(self, base: Config, users: int) -> dict[str, Any]:
        """Lengths between the given ones, and more sizes for a law of N."""
        has_n = "n" in registry.by_name(self.law).axes
        tried = sorted(self.epochs)
        between = (float(f"{(a * b) ** 0.5:.3g}") for a, b in itertools.pairwise(tried))
        return {"epochs": (*tried, *between), "sizes": around(self.sizes) if has_n else self.sizes}


Steps = Callable[[Config], int]


def _steps(prepared: Prepared) -> Steps:
    """Returns a function that counts the steps of a run of the plan; those of all sizes and rates are counted once."""
    from experiments.sweep.cost import exact_steps  # starts jax, which --help need not wait for

    known: dict[Any, int] = {}

    def steps(config: Config) -> int:
        key = config.data, config.train.epochs, config.train.seed
        if key not in known:
            known[key] = exact_steps(config, prepared)
        return known[key]

    return steps


def _with_one_warmup(configs: Sequence[Config], steps: Steps) -> list[Config]:
    """Returns the runs with equal `optim.warmup_steps`; if it is 0, it becomes `optim.warmup_fraction` of the shortest
    run."""
    from sessionrec_jax.training.optim import check_length

    optim = configs[0].optim
    warmup_steps = optim.warmup_steps or max(1, round(optim.warmup_fraction * min(map(steps, configs))))
    configs = [replace(config, {"optim.warmup_steps": warmup_steps}) for config in configs]
    for config in configs:
        check_length(config.optim, steps(config))
    return configs


def _branched(configs: Sequence[Config], steps: Steps) -> list[Config]:
    """Returns the runs; the longest of those that differ in length alone is the trunk of the others, which begin from
    its checkpoints."""
    from sessionrec_jax.training.optim import cooldown_start

    alike: dict[Config, list[Config]] = defaultdict(list)
    for config in configs:
        alike[replace(config, {"train.epochs": 1.0})].append(config)
    found = []
    for runs in alike.values():
        *branches, trunk = sorted(runs, key=lambda run: run.train.epochs)
        starts = [cooldown_start(branch.optim, steps(branch)) for branch in branches]
        for branch, step in zip(branches, starts, strict=True):
            found.append(check(replace(branch, {"train.begins_from": f"{run_id(trunk)}/checkpoints/{step}"})))
        found.append(replace(trunk, {"train.checkpoints_at": tuple(dict.fromkeys(starts))}))
    return found
