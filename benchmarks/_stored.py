"""A known-truth log and the settings of small runs on it, for the benchmarks that train on a stored log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sessionrec_jax.data.preparation.prepare import Settings, prepare
from sessionrec_jax.data.sources import synthetic
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.data.synthetic.process import ZipfIntent

OVERRIDES: dict[str, Any] = {
    "data.rows": 8,
    "data.side_columns": ("category",),
    "data.sessions_per_row": 32,
    "model.id_width": 16,
    "model.side_width": 8,
    "loss.negatives": 256,
    "optim.table_rate_ratio": 30.0,
    "optim.table_prior": 300.0,
}


def stored(folder: Path, users: int) -> Prepared:
    """Writes a log of 4,096 items and about four sessions a user into `folder`, with `users` users to train on."""
    process = ZipfIntent(
        users=users + 200,
        base=16,
        click_low=0.02,
        click_high=0.9,
        keep_interest=0.95,
        sessions_mean=4.0,
        sessions_max=12,
        seed=1,
    )
    return prepare(synthetic.read(process), folder / "log", Settings(validation_users=100, test_users=100))
