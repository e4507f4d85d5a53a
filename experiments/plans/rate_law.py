"""The law of the best rate and batch that `sessionrec rates SWEEP --json` wrote, applied to the runs of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from doors.state import read_json
from doors.terminal import say
from experiments.plans import rates
from experiments.plans.sizes import size_of
from experiments.sweep import sweep_folder
from scaling.rates.law import FAR
from scaling.rates.result import Rates, is_rates, load_rates
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace, to_dict
from sessionrec_jax.errors import InputError
from sessionrec_jax.row_columns import PARAMS, SESSIONS, SESSIONS_SEEN

RATE, BATCH = "learning_rate_peak", "batch_rows"
"""The columns of a row that the laws are of."""
_WANTED = {"rate": (RATE,), "batch": (BATCH, None), "n": (PARAMS, None), "d": (SESSIONS, SESSIONS_SEEN)}
MOST_ROUNDS = 20
"""The batch depends on D, and D may depend on the batch by a step."""


def settings_of(sweep: Path) -> dict[str, Any]:
    """Returns the settings that the best rate of a sweep depends on, as keys of rates.json.

    Raises InputError where the folder is no sweep, or its runs differ in such a setting.
    """
    configs = list(sweep_folder.read(sweep)[1].values())
    settings = [rates.settings(to_dict(config)) for config in configs]
    differ = sorted({name for other in settings for name in other if other[name] != settings[0].get(name)})
    if differ:
        raise InputError(f"the runs of {sweep} differ in {', '.join(differ)}; a law of the best rate is of one recipe")
    rows = {config.data.rows for config in configs}
    return {"settings": settings[0], "rows": rows.pop() if len(rows) == 1 else None}


def is_law(path: Path) -> bool:
    """Returns whether a file holds laws, and not the rates of single sizes. False where there is no file."""
    return path.is_file() and is_rates(read_json(path))


def check(path: Path, base: Config) -> Rates:
    """Returns the laws of a file. Raises InputError where they are of other columns, or of other settings."""
    laws, stored = load_rates(path), read_json(path)
    for name, wanted in _WANTED.items():
        if laws.columns[name] not in wanted:
            raise InputError(
                f"{path} was fitted to the column {laws.columns[name]!r} for the {name}; a sweep wants {wanted[0]!r}: "
                "fit the runs of a sweep of the plan learning_rate, by `sessionrec rates SWEEP --json`"
            )
    rates.refuse_other_settings(path, stored.get("settings"), base)
    if laws.columns["batch"] == BATCH and laws.batch is None:
        raise InputError(f"{path} has a law of the rate at its best batch and none of the batch; tune with one --rows")
    rows = None if laws.batch is not None else stored.get("rows")
    if base.data.rows and not base.data.rows_auto and (laws.batch is not None or base.data.rows != rows):
        has = "a law of the batch" if laws.batch is not None else f"batches of {rows} rows"
        raise InputError(f"{path} has {has}, but --data.rows is {base.data.rows}; leave --data.rows out")
    return laws


def fixed_rows(path: Path) -> dict[str, Any]:
    """Returns the setting of the batch where the file has one batch for all runs."""
    rows = read_json(path).get("rows")
    return {"data.rows": rows, "data.rows_auto": False} if isinstance(rows, int) else {}


def applied(path: Path, configs: Sequence[Config]) -> list[Config]:
    """Returns resolved runs with the rate, and the batch, of their own N and D. Reports which rate each size got.

    Raises InputError for a run that is more than FAR times outside the cells of the law.
    """
    from experiments.sweep.cost import CostEstimate  # starts jax, which --help need not wait for

    laws, cost = load_rates(path), CostEstimate()
    found, farthest = [], ("", 1.0)
    reported: dict[str, str] = {}
    for config in configs:
        config, n, d = _settled(laws, config, cost)
        axis, outside = laws.rate.outside(n, d)
        if outside > FAR:
            raise InputError(
                f"size {size_of(config)} has N {n:.4g} and D {d:.4g}, which is {outside:.3g} times outside the {axis} "
                f"of {path}; wanted at most {FAR:g} times. Tune nearer sizes and data too, or give --learning-rates."
            )
        farthest = max(farthest, (axis, outside), key=lambda pair: pair[1])
        rows = f", {config.data.rows} rows" if laws.batch is not None else ""
        what = f"{size_of(config)} at D {d:,.0f}: {config.optim.learning_rate_peak:g}{rows}"
        reported.setdefault(what, what)
        found.append(config)
    say(f"learning rates by {path}: {'; '.join(reported)}")
    if farthest[1] > 1:
        say(f"warning: the runs go to {farthest[1]:.3g} times outside the {farthest[0]} that the rates were tuned at")
    return found


def _settled(laws: Rates, config: Config, cost: Any) -> tuple[Config, float, float]:
    """Returns a run at its own best rate and batch, with its N and D."""
    for _ in range(MOST_ROUNDS):
        row = cost.row(config)
        n, d = float(row[PARAMS]), float(row[laws.columns["d"] or SESSIONS])
        values = {setting: float(value) for setting, (value, _, _) in laws.predict(n, d).items()}
        own: dict[str, Any] = {"optim.learning_rate_peak": float(f"{values['rate']:.3g}")}
        if "batch" in values:
            own |= {"data.rows": max(1, round(values["batch"])), "data.rows_auto": False}
        changed = replace(config, own)
        if changed == config:
            break
        config = changed
    return config, n, d
