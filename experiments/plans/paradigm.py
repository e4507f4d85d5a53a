"""Plan `paradigm`: next-session prediction against next-item prediction, with the same encoders, data and tuning.

Every arm reads the same span of history: a row has room for data.sessions_per_row sessions, or for as many items as
they hold on average (nipp_plus), or as many clicks (nipp). SASRec and HSTU are `nipp` with the two encoders. `nipp` has
no rank loss, since it never sees an ignored exposure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from experiments.plans.arms import Arm, ArmsPlan
from experiments.sweep.layout import Layout
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.store import Prepared

TITLES = {"nspp": "NSPP, next session", "nipp": "NIPP, next click", "nipp_plus": "NIPP+, next exposure"}


@dataclass(frozen=True)
class Plan(ArmsPlan):
    """Paradigms x sequence encoders x seeds, at equal epochs and at equal compute, each tuned in the same way."""

    encoders: tuple[str, ...] = ("transformer", "hstu")
    """Sequence encoders, one table for each."""

    SETS: ClassVar[dict[str, str]] = ArmsPlan.SETS | {
        "model.sequence_encoder": "--encoders",
        "paradigm": "nothing, since each is an arm",
    }

    def lay_out(self, base: Config, prepared: Prepared) -> Layout:
        """Returns every run, each once. `base`: the settings that all arms share."""
        arms = [
            Arm(encoder, title, self._config(base, prepared, encoder, name), is_reference=name == "nspp")
            for encoder in self.encoders
            for name, title in TITLES.items()
        ]
        return self.lay_out_arms(arms, prepared)

    def _config(self, base: Config, prepared: Prepared, encoder: str, name: str) -> Config:
        changed: dict[str, Any] = {
            "paradigm": name,
            "model.sequence_encoder": encoder,
            "data.sessions_per_row": _slots(base.data.sessions_per_row, prepared, name),
            "train.epochs": self.epochs,
        }
        if name != "nspp":
            changed["loss.rank"] = "pointwise"
        if name == "nipp":
            changed["loss.alpha"] = 0.0
        return replace(base, changed)


def _slots(sessions: int, prepared: Prepared, name: str) -> int:
    """Slots that hold the items of `sessions` average sessions, to a multiple of eight; at least sixteen."""
    if name == "nspp":
        return sessions
    manifest = prepared.manifest
    items = manifest["exposures"] if name == "nipp_plus" else manifest["clicks"]
    return max(16, math.ceil(sessions * items / manifest["sessions"] / 8) * 8)
