"""Plan `ablation`: what each part of next-session prediction buys, one part changed at a time.

Tables: the session encoder; the rank loss and its weight alpha; the retrieval loss and its negatives; the length of the
history; ignored exposures in the input. The base configuration is the reference of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from experiments.plans.arms import Arm, ArmsPlan
from experiments.sweep.layout import Layout
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.registry import RANK_LOSSES, SESSION_ENCODERS

_NEGATIVES = (64, 512, 2048)
_ALPHAS = (0.01, 0.1, 1.0)
_WINDOWS = (2, 4, 8, 16, 32)
Table = Literal["session encoder", "rank loss", "retrieval loss", "history", "input"]


@dataclass(frozen=True)
class Plan(ArmsPlan):
    """One part of the model changed at a time, at equal epochs and at equal compute, each tuned in the same way."""

    tables: tuple[Table, ...] = ("session encoder", "rank loss", "retrieval loss", "history", "input")
    """The parts to change."""

    SETS: ClassVar[dict[str, str]] = ArmsPlan.SETS | {"paradigm": "nothing, since it is about next sessions"}

    def lay_out(self, base: Config, prepared: Prepared) -> Layout:
        """Returns every run, each once. `base`: the reference."""
        base = replace(base, {"train.epochs": self.epochs})
        arms = []
        for table in self.tables:
            arms.append(Arm(table, f"{_name(table, base)} (reference)", base, is_reference=True))
            changed = (replace(base, change) for change in _changes(table, base))
            arms += [Arm(table, _name(table, config), config) for config in changed if config != base]
        return self.lay_out_arms(arms, prepared)


def _changes(table: Table, base: Config) -> list[dict[str, Any]]:
    if table == "session encoder":
        return [{"model.session_encoder": name} for name in SESSION_ENCODERS]
    if table == "rank loss":
        return [{"loss.alpha": 0.0}] + [{"loss.rank": loss, "loss.alpha": a} for loss in RANK_LOSSES for a in _ALPHAS]
    if table == "retrieval loss":
        return [
            *({"loss.negatives": n} for n in _NEGATIVES),
            *({"loss.negatives_from": kind} for kind in ("mixed", "uniform", "log_uniform", "in_batch")),
            {"loss.log_q": False},
            {"loss.other_clicks": "masked" if base.loss.other_clicks == "counted" else "counted"},
            {"loss.retrieval": "full_softmax"},
            {"loss.retrieval": "bce"},
            {"model.score": "cosine", "model.temperature": 0.05},
            {"model.score": "cosine", "model.temperature": 0.05, "model.temperature_learned": True},
        ]
    if table == "history":
        return [{"data.window": n} for n in _WINDOWS if n < base.data.sessions_per_row]
    return [{"model.ignored_in_input": not base.model.ignored_in_input}]


def _name(table: Table, config: Config) -> str:
    """The arm's name: the settings that its table varies."""
    if table == "session encoder":
        return config.model.session_encoder
    if table == "rank loss":
        return f"{config.loss.rank}, alpha {config.loss.alpha:g}" if config.loss.alpha else "none, alpha 0"
    if table == "retrieval loss":
        return _retrieval_name(config)
    if table == "history":
        slots = config.data.slots  # a session deep in a long history sees at least half a window (data/windows.py)
        return "the last session" if slots == 2 else f"the last {slots // 2} to {slots - 1} sessions"
    return "clicked and ignored" if config.model.ignored_in_input else "clicked only"


def _retrieval_name(config: Config) -> str:
    model, loss = config.model, config.loss
    if loss.retrieval == "full_softmax":
        return "full softmax"
    name = "BCE" if loss.retrieval == "bce" else "sampled softmax"
    name += f", {loss.negatives} {loss.negatives_from.replace('_', '-')}"
    name += "" if loss.log_q else ", no log-q"
    name += f", other clicks {loss.other_clicks}"
    if model.score == "cosine":
        name += f", cosine at {'learned ' if model.temperature_learned else ''}{model.temperature:g}"
    return name
