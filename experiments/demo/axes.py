"""The two axes of the demo, data and body size. Each is a known-truth log, and a plan that sweeps one quantity.

In both the user's interest is all that the model can learn from. It reads the last session's anchor, which shows the
interest, and scores items by their category. Its exact loss is then a finite sum, without the noise of test sessions
(evaluation/exact.py). Sessions are drawn in the step, and each is seen once.

* data: an ID table stores one coin for each interest. The body is large enough and the sessions are few, so the loss
  falls as D^-(alpha / (1 + alpha)).
* body: interests are described by digits alone, so the body has to store the coins. Sessions are labelled with their
  exact click probability, so only the body is short, and the loss falls as N^-alpha.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from experiments.demo import SizeName
from experiments.plans import fresh_data, unlimited_data
from experiments.plans.scaling_plan import ScalingPlan
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.preparation.prepare import Settings
from sessionrec_jax.data.synthetic.process import ZipfIntent

HELD_OUT = Settings(validation_users=300, test_users=300)
_PROCESS: dict[str, Any] = {
    "users": 1_500,  # their sessions only show the data; those of the runs are drawn in the step
    "alpha": 0.5,
    "click_low": 0.02,
    "click_high": 0.9,
    "keep_interest": 0.95,
    "sessions_mean": 4.0,
    "sessions_max": 12,
}
"""Strong contrast and short histories: a coin is learned from few exposures, and few of them repeat within a user."""


@dataclass(frozen=True)
class Axis:
    """One law to recover."""

    name: str
    """The name of its folder."""
    title: str
    process: ZipfIntent
    plan_name: str
    plan: ScalingPlan
    base: Config
    """The settings of every run that the plan does not vary."""


def axes(size: SizeName, seed: int) -> tuple[Axis, Axis]:
    """Returns the axis of data and the axis of body size. `seed` draws the processes and starts the runs."""
    return _data(size, seed), _body(size, seed)


def _data(size: SizeName, seed: int) -> Axis:
    sessions = (20_000, 35_000, 61_000, 107_000, 187_000, 328_000, 573_000, 1_000_000)
    if size == "smallest":
        sessions = (2_000, 2_800, 4_000, 5_600, 8_000, 11_200, 16_000)
    process = ZipfIntent(base=64, depth=3, categories=1, seed=seed, **_PROCESS)
    settings = {
        "data.rows": 128,
        "data.rows_auto": False,
        "data.side_columns": ("category",),  # not the digits, so that the ID table has to store the coins
        "model.id_width": 4,
        "model.id_init_std": 0.0,
        "model.side_width": 8,
        "optim.table_rate_ratio": 100.0,
    }
    plan = fresh_data.Plan(sizes=("8x1x1",), sessions=sessions, learning_rates=(3e-3,), seeds=(seed,))
    return Axis("data", "Loss against data", process, "fresh_data", plan, replace(Config(), settings))


def _body(size: SizeName, seed: int) -> Axis:
    process = ZipfIntent(base=32, depth=3, categories=8, seed=seed, **_PROCESS)
    settings = {
        "data.fresh": "expected",
        "data.rows": 1_024,
        "data.rows_auto": False,
        "model.remat": False,
        "optim.weight_decay": 0.0,
        "train.log_every_steps": 250,
    }
    # About 1,600 sessions for each parameter of the body, and at least 5,000 steps. Below the width of 8 it cannot hold
    # 8 independent scores.
    thousands = {8: 5_100, 10: 5_100, 12: 6_300, 16: 10_700, 20: 16_100, 24: 22_700, 30: 34_800}
    sizes = tuple(f"{width}x1x1" for width in thousands)
    sessions = tuple(count * 1_000 for count in thousands.values())
    if size == "smallest":
        sessions = (200_000,)
    plan = unlimited_data.Plan(sizes=sizes, sessions=sessions, learning_rates=(2e-2,), seeds=(seed,))
    base = replace(Config(), settings)
    return Axis("body", "Loss against body size", process, "unlimited_data", plan, base)
