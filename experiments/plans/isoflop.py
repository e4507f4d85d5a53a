"""Plan `isoflop`: model sizes at the same training FLOPs, for several budgets; a small model gets more data.

Each run reads the number of training users that spends its budget in `--epochs` passes, to the nearest user; small
changes of the epochs make up for the rest. `sessionrec report` then draws the minimum of each budget and the path
through the minima.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from experiments.plans import batch_rows
from experiments.plans.scaling_plan import ScalingPlan, layout, training_users
from experiments.plans.sizes import around, size_of
from experiments.sweep.cost import CostEstimate
from experiments.sweep.layout import Layout
from scaling.rates.result import load_rates
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.errors import InputError
from sessionrec_jax.row_columns import FIT, FLOPS

TOLERANCE = 0.01
"""Share of its budget that a run may spend too much or too little."""
EPOCHS_OFF = 0.01
"""Largest relative difference between a run's epochs and those asked for; beyond it the users are solved for again."""


class _Whole(NamedTuple):
    """Every size on the whole log."""

    configs: list[Config]
    flops: list[float]
    budgets: tuple[float, ...]
    """Those given, or those that follow from `flops`."""


@dataclass(frozen=True)
class Plan(ScalingPlan):
    """Budgets x sizes x seeds."""

    sizes: tuple[str, ...] = ("xxs", "xs", "s", "m", "l")
    budgets: tuple[float, ...] = ()
    """Training FLOPs. Left out: four, each a third of the one before; the first is what the smallest size spends on the
    whole log."""
    epochs: float = 1.0
    """Passes over the users of a run."""
    law: Literal["chinchilla", "chinchilla_no_floor", "tied", "kaplan", "gamma", "none"] = "chinchilla"
    """The law to fit; a plan that cannot identify it is refused. none: no law."""

    SETS: ClassVar[dict[str, str]] = ScalingPlan.SETS | {"data.users": "--budgets", "train.epochs": "--epochs"}
    COLUMNS: ClassVar[dict[str, str | None]] = FIT | {"flops": FLOPS}

    def changes(self, base: Config, users: int) -> list[dict[str, float]]:
        """On the whole log; `lay_out` then fits each run to each budget."""
        return [{"train.epochs": self.epochs}]

    def lay_out(self, base: Config, prepared: Prepared) -> Layout:
        """Returns every run, each once, and report.json. Raises InputError for a budget that a size cannot spend."""
        from sessionrec_jax.data.resolve import with_rows  # starts jax, which --help need not wait for

        if self.rate_law is not None and load_rates(self.rate_law).batch is not None:
            raise InputError(
                f"{self.rate_law} has a law of the batch, and runs of other batches spend other budgets; tune with one "
                "--rows for isoflop"
            )
        cost, most = CostEstimate(), training_users(prepared)
        whole = self._on_the_whole_log(base, prepared, cost)
        if not base.data.rows:  # the smallest budget spent on the largest size has the smallest data
            least = max(1, round(most * min(whole.budgets) / max(whole.flops)))
            rows = batch_rows.fewest([replace(base, {"data.users": least})], prepared)
            whole = self._on_the_whole_log(with_rows(base, rows), prepared, cost)
        configs = [
            _spending(budget, config, first_guess=most * budget / spent, most=most, cost=cost)
            for budget in whole.budgets
            for config, spent in zip(whole.configs, whole.flops, strict=True)
        ]
        return layout(configs, prepared, self.report(), self.rate_law)

    def _on_the_whole_log(self, base: Config, prepared: Prepared, cost: CostEstimate) -> _Whole:
        configs = batch_rows.resolved(self.configs(base, training_users(prepared)), prepared)
        flops = [cost.row(config)[FLOPS] for config in configs]
        return _Whole(configs, flops, self.budgets or tuple(float(f"{min(flops) / 3**k:.3g}") for k in range(4)))

    def more(self, base: Config, users: int) -> dict[str, Any]:
        """More sizes at the same budgets."""
        return {"sizes": around(self.sizes)}


def _spending(budget: float, whole: Config, *, first_guess: float, most: int, cost: CostEstimate) -> Config:
    """Returns the run `whole` on fewer users, so that it spends the budget.

    Args:
      first_guess: about how many users.
      most: training users of the log.
    """
    users, wanted, name = first_guess, whole.train.epochs, f"size {size_of(whole)}"
    if users > most * (1 + EPOCHS_OFF):
        raise InputError(
            f"{name} wants {users:,.0f} users for {budget:.3g} FLOPs in {wanted:g} epochs; the log has {most:,}. Lower "
            f"--budgets to {budget * most / users:.3g}, leave the size out, or raise --epochs."
        )
    for _ in range(3):
        config = replace(whole, {"data.users": min(max(round(users), 1), most)})
        row = cost.row(config)
        epochs = budget / row[FLOPS] * row["epochs"]
        if abs(epochs / wanted - 1) <= EPOCHS_OFF:
            break
        users *= epochs / wanted
    config = replace(config, {"train.epochs": float(f"{epochs:.4g}")})
    row = cost.row(config)
    if abs(row[FLOPS] / budget - 1) > TOLERANCE:
        raise InputError(
            f"{name} takes {row['steps']} steps for {budget:.3g} FLOPs, and a step more or less is more than "
            f"{TOLERANCE:.0%}. Raise --budgets (where they are left out: --epochs), leave the size out, or lower "
            "--data.rows."
        )
    return config
