"""A fit as JSON: contract 4 with more keys, whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.errors import InputError

if TYPE_CHECKING:
    from scaling.fit import Fit


def fit_to_dict(fit: Fit) -> dict[str, Any]:
    """Contract 4 and what a FittedLaw is made of; NaN and infinity become None."""
    values = fit.stored() | {
        "formula": fit.law.formula,
        "objective_name": fit.objective.name,
        "delta": fit.objective.delta if fit.objective.name == "huber" else None,
        "objective": fit.objective_value,
        "n_rows": len(fit.table),
        "excluded": [vars(row) for row in fit.table.excluded],
        "params": fit.params,
        "interval95": fit.interval95,
        "standard_error": fit.standard_error(),
        "open_intervals": fit.open_intervals,
        "bounds": fit.bounds,
        "sizes_at_centre": fit.sizes_at_centre,
        "sizes_at_centre_interval95": fit.sizes_at_centre95,
        "profile": fit.profile,
        "residual_sigma": fit.residual_sigma,
        "seed_noise": fit.seed_noise,
        "lack_of_fit": fit.lack_of_fit,
        "minima": fit.minima,
        "heldout": fit.heldout,
        "forms": None if fit.forms is None else vars(fit.forms) | {"near": fit.forms.near, "spread": fit.forms.spread},
        "variants": fit.variants,
        "warnings": fit.warnings,
        "free_floor": fit.free_floor,
        "bootstrap": {"draws": fit.bootstrap, "converged": len(fit.cloud_SP)},
        "seed": fit.seed,
        "source": fit.table.source,
        "data_hash": fit.table.data_hash(),
    }
    return plain(values)


def write_json(values: dict[str, Any], path: Path) -> None:
    """Raises InputError where the folder does not exist."""
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {path.parent}")
    cloud = values.get("cloud")
    text = json.dumps(values | {"cloud": "@"} if cloud is not None else values, indent=1, allow_nan=False)
    if cloud is not None:  # a draw a line, not a number a line
        draws = ",\n  ".join(json.dumps(draw) for draw in cloud)
        text = text.replace('"cloud": "@"', f'"cloud": [{draws}]', 1)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text + "\n")
    part.replace(path)


def plain(value: Any) -> Any:
    """JSON's types; what JSON has no number for is missing."""
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return float(value) if np.isfinite(value) else None
    return plain(vars(value)) if hasattr(value, "__dataclass_fields__") else value
