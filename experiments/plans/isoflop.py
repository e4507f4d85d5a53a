"""Plan `isoflop`: model sizes at the same training FLOPs, for several budgets; the data make up for the size.

Each run reads as many training users as spend its budget in `--epochs` passes, to the nearest user; what is left over
is evened out by the epochs. `sessionrec report` then draws the minimum of each budget and the path through them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

from experiments.plans.scaling_plan import COLUMNS, Scaled, lay_out, training_users
from experiments.plans.sizes import around, size_of
from experiments.sweep.cost import CostEstimate
from experiments.sweep.layout import Layout
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.errors import InputError

TOLERANCE = 0.01
"""Of a budget, within which each run spends it."""
EPOCHS_OFF = 0.01
"""Most that the epochs may differ from those asked for: beyond it the users are solved for again."""


@dataclass(frozen=True)
class Plan(Scaled):
    """Budgets x sizes x seeds."""

    sizes: tuple[str, ...] = ("xxs", "xs", "s", "m", "l")
    budgets: tuple[float, ...] = ()
    """Training FLOPs. Left out: four, each a third of the one before; the first is what the smallest size spends on the
    whole log."""
    epochs: float = 1.0
    """Passes over the users of a run."""
    law: Literal["chinchilla", "chinchilla_no_floor", "tied", "kaplan", "gamma", "none"] = "chinchilla"
    """What is to be fitted; a plan that cannot carry it is refused. none: nothing."""

    SETS: ClassVar[dict[str, str]] = Scaled.SETS | {"data.users": "--budgets", "train.epochs": "--epochs"}

    def lay_out(self, base: Config, prepared: Prepared) -> Layout:
        """Every run, each once, and which columns `sessionrec fit` and `report` read."""
        from sessionrec_jax.data.resolve import resolve  # starts jax, which --help need not wait for

        ahead, most = CostEstimate(), training_users(prepared)
        whole = [resolve(config, prepared) for config in self.each(base, [{"train.epochs": self.epochs}])]
        spent = [ahead.row(config)["flops_train"] for config in whole]
        budgets = self.budgets or tuple(float(f"{min(spent) / 3**k:.3g}") for k in range(4))
        configs = [
            _spending(budget, config, flops, most, ahead)
            for budget in budgets
            for config, flops in zip(whole, spent, strict=True)
        ]
        report = self.report(COLUMNS | {"flops": "flops_train"}, None if self.law == "none" else self.law)
        return lay_out(configs, prepared, report)

    def wider(self, base: Config, prepared: Prepared) -> Plan:
        """More sizes at the same budgets: where runs may be added."""
        return dataclasses.replace(self.untuned(), sizes=around(self.sizes))


def _spending(budget: float, whole: Config, flops: float, most: int, ahead: CostEstimate) -> Config:
    """`whole`, which spends `flops` on all of the log's `most` users, on so many of them that it spends the budget."""
    wanted, users = whole.train.epochs, most * budget / flops
    name = f"size {size_of(whole)}"
    if users > most * (1 + EPOCHS_OFF):
        raise InputError(
            f"{name} wants {users:,.0f} users for {budget:.3g} FLOPs in {wanted:g} epochs; the log has {most:,}. Lower "
            f"--budgets to {flops:.3g}, leave the size out, or raise --epochs."
        )
    for _ in range(3):
        config = replace(whole, {"data.users": min(max(round(users), 1), most)})
        row = ahead.row(config)
        epochs = budget / row["flops_train"] * row["epochs"]
        if abs(epochs / wanted - 1) <= EPOCHS_OFF:
            break
        users *= epochs / wanted
    config = replace(config, {"train.epochs": float(f"{epochs:.4g}")})
    row = ahead.row(config)
    if abs(row["flops_train"] / budget - 1) > TOLERANCE:
        raise InputError(
            f"{name} takes {row['steps']} steps for {budget:.3g} FLOPs, and a step more or less is more than "
            f"{TOLERANCE:.0%}. Raise --budgets (where they are left out: --epochs), leave the size out, or lower "
            "--data.rows."
        )
    return config
