"""Settings of runs on sessions that are drawn in the step, for the plans that have such runs."""

from __future__ import annotations

from typing import Any

from sessionrec_jax.config.settings import Config, Model
from sessionrec_jax.config.values import flat, to_dict

_FRESH: dict[str, Any] = {
    "data.sessions_per_row": 2,  # one anchor, and the session that it predicts
    "data.eval_candidates": "shown",
    "model.scored_by": ("category",),
    "model.clicked_in_input": False,
    "model.ignored_in_input": False,
    "loss.retrieval": "none",
}


def fresh_settings(base: Config, own: dict[str, Any]) -> dict[str, Any]:
    """Returns what a run on fresh sessions needs, and the plan's `own` values, except where a user has set `base`."""
    here, default = flat(to_dict(base)), flat(to_dict(Config()))
    wanted = _FRESH | own
    return {name: value for name, value in wanted.items() if here[name] == default[name]}


def digits_width(base: Config, width: int) -> dict[str, Any]:
    """Returns the width of the digits' tables for a model of this width, unless a user has set it: half of the model's,
    at least 4, so that a body without an ID table grows as a whole."""
    return {"model.side_width": max(4, width // 2)} if base.model.side_width == Model().side_width else {}
