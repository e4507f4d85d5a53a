"""Counts N, D and C of a run, before it and after it, and finds epochs of equal compute."""

from __future__ import annotations

from typing import Any, NamedTuple

from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace, run_id
from sessionrec_jax.data.batches import shape_of, train_catalogue, train_packer, train_users, train_windows
from sessionrec_jax.data.packing import plan_rows
from sessionrec_jax.data.store import Prepared, open_log
from sessionrec_jax.data.synthetic.known import known_truth
from sessionrec_jax.model.spec_of_log import spec_of
from sessionrec_jax.row import flops_train, parameters, sessions_seen, unique


class Epoch(NamedTuple):
    """The contents of one pass over the training sessions of a run, which do not depend on the model."""

    items: int
    sessions: int
    rows: int

    @classmethod
    def of(cls, config: Config, prepared: Prepared) -> Epoch:
        windows = train_windows(config, prepared)
        plan = plan_rows(windows, config.data.sessions_per_row, config.data.items_per_row)
        return cls(int(windows.items_W.sum()), int(windows.sessions_W.sum()), len(plan))

    def steps(self, config: Config, epochs: float = 1.0) -> int:
        return max(1, round(epochs * self.rows / config.data.rows))


def exact_steps(config: Config, prepared: Prepared) -> int:
    """Returns the number of steps of a resolved `config`."""
    return len(train_packer(config, prepared, shape_of(replace(config, {"train.microbatches": 1}), 1)))


def flops_per_epoch(config: Config, prepared: Prepared) -> float:
    """Returns the training FLOPs of one epoch of a resolved `config`."""
    epoch = Epoch.of(config, prepared)
    spec = spec_of(config, prepared, train_catalogue(config, prepared))
    return flops_train(config, spec, items=epoch.items, sessions=epoch.sessions, steps=epoch.steps(config))


def at_equal_compute(config: Config, reference: Config, prepared: Prepared) -> Config:
    """Returns `config` with epochs (to four digits) that spend the FLOPs of `reference`. Both are resolved."""
    ratio = flops_per_epoch(reference, prepared) / flops_per_epoch(config, prepared)
    return replace(config, {"train.epochs": float(f"{reference.train.epochs * ratio:.4g}")})


class CostEstimate:
    """Estimates the columns N, D and C that the rows of runs will have.

    Numbers that several runs share (the pass over a part of a log, its distinct sessions) are counted once.
    """

    def __init__(self):
        self._known: dict[Any, Any] = {}

    def row(self, config: Config) -> dict[str, Any]:
        """Returns the columns of a resolved `config`."""
        data, paradigm = config.data, config.paradigm
        prepared = self._once(data.path, lambda: open_log(data.path))
        distinct = self._once(
            (data.path, data.users, data.fresh, data.fresh_sessions, data.rows), lambda: unique(config, prepared)
        )
        # its sizes do not depend on the training users
        catalogue = self._once((data.path, data.side_columns), lambda: train_catalogue(config, prepared))
        spec = spec_of(config, prepared, catalogue)
        if data.fresh == "no":
            epoch = self._once((data, paradigm), lambda: Epoch.of(config, prepared))
            steps = epoch.steps(config, config.train.epochs)
            epochs = steps * data.rows / epoch.rows
            seen = {"items": round(epochs * epoch.items), "sessions": round(epochs * epoch.sessions), "steps": steps}
            users = len(train_users(config, prepared))
        else:
            sessions, epochs, steps, users = distinct["sessions_unique"], 1.0, data.fresh_steps, None
            categories = known_truth(prepared).process.categories
            seen = {"items": sessions, "sessions": sessions, "steps": steps, "categories": categories}
        return {
            "run_id": run_id(config),
            "seed": config.train.seed,
            "window_slots": data.slots,
            "epochs_planned": config.train.epochs,
            **parameters(spec),
            "flops_train": flops_train(config, spec, **seen),
            **sessions_seen(config, distinct, epochs),
            "epochs": epochs,
            "users": users,
            "items": catalogue.items,
            "steps": steps,
        }

    def _once(self, key: Any, make: Any) -> Any:
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]
