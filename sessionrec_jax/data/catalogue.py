"""The catalogue: side information and popularity of the items, as a model and a loss see them.

Popularity is smoothed by a Dirichlet prior. Its weight maximises the leave-one-out likelihood of the training counts,
so the popularity baseline is as good as counts alone can be, and nothing is tuned on held-out sessions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from jaxtyping import Float32, Int, Int64, Shaped

ID_ROW = "/id_row"
"""The key in `Catalogue.side` of each item's row of the ID table, if rare items share rows. No column has this name."""
ITEM_ID = "item_id"
"""The name of the ID among the columns that a model may use."""
_PSEUDO_COUNTS = np.geomspace(1e-4, 1e4, 161)


@dataclass(frozen=True)
class Catalogue:
    """The items of a run. V = items + 1; index 0 is padding and has probability zero everywhere."""

    side: dict[str, Shaped[np.ndarray, "V W"]]
    """Codes of side information and content vectors by column, see side_information.py and content_vectors.py. Also
    ID_ROW, if items share rows."""
    side_values: dict[str, int]
    """Number of values of each column."""
    log_popularity_V: Float32[np.ndarray, " V"]
    """Log of the smoothed share of the training clicks; -inf for padding."""
    click_rate_V: Float32[np.ndarray, " V"]
    """Smoothed clicks over exposures in training."""
    click_rate: float
    """Clicks over labelled exposures in training."""
    vector_widths: Mapping[str, int] = field(default_factory=dict)
    """Number of floats of each column of content vectors."""

    @property
    def items(self) -> int:
        return len(self.log_popularity_V) - 1

    @property
    def id_rows(self) -> int:
        """Rows of the ID table that are in use; 0 if each item has its own."""
        return int(self.side[ID_ROW].max()) + 1 if ID_ROW in self.side else 0


def from_counts(
    clicks_V: Int64[np.ndarray, " V"],
    exposures_V: Int64[np.ndarray, " V"],
    side: dict[str, Shaped[np.ndarray, "V W"]],
    side_values: dict[str, int],
    vector_widths: Mapping[str, int] = MappingProxyType({}),
) -> Catalogue:
    """Makes a catalogue from the training counts of a data subset. `exposures_V` counts clicked and ignored ones."""
    rate = float(clicks_V.sum() / max(exposures_V.sum(), 1))
    return Catalogue(
        side=side,
        side_values=side_values,
        log_popularity_V=_smoothed_log_share(clicks_V),
        click_rate_V=_smoothed_rate(clicks_V, exposures_V, rate),
        click_rate=rate,
        vector_widths=vector_widths,
    )


def _smoothed_log_share(clicks_V: np.ndarray) -> np.ndarray:
    clicks, items, total = clicks_V[1:].astype(np.float64), len(clicks_V) - 1, clicks_V.sum()
    counts, times = np.unique(clicks[clicks > 0], return_counts=True)

    def left_out(pseudo: float) -> float:
        return float(np.sum(times * counts * np.log((counts - 1 + pseudo) / (total - 1 + pseudo * items))))

    pseudo = max(_PSEUDO_COUNTS, key=left_out) if total > 1 else 1.0
    with np.errstate(divide="ignore"):
        return np.log(np.append(0.0, (clicks + pseudo) / (total + pseudo * items))).astype(np.float32)


def _smoothed_rate(clicks_V: np.ndarray, exposures_V: np.ndarray, rate: float) -> np.ndarray:
    if not 0 < rate < 1:
        return np.full(len(clicks_V), rate, np.float32)
    clicks, exposures = clicks_V.astype(np.float64), exposures_V.astype(np.float64)
    pairs, times = np.unique(np.stack([clicks_V, exposures_V]), axis=1, return_counts=True)  # many items have the same
    clicked, shown = pairs.astype(np.float64)
    ignored = shown - clicked

    def left_out(prior: float) -> float:
        all_but_one = np.log(np.maximum(shown - 1, 0) + prior)
        click = np.log(np.maximum(clicked - 1, 0) + prior * rate) - all_but_one
        ignore = np.log(np.maximum(ignored - 1, 0) + prior * (1 - rate)) - all_but_one
        return float((times * clicked) @ click + (times * ignored) @ ignore)

    prior = max(_PSEUDO_COUNTS, key=left_out)
    return ((clicks + prior * rate) / (exposures + prior)).astype(np.float32)


def popularity_rank(catalogue: Catalogue) -> Int[np.ndarray, " V"]:
    """Returns the rank of each item by training clicks, 0 = most clicked; ties by id. Padding is last."""
    order_V = np.argsort(-catalogue.log_popularity_V, kind="stable")
    rank_V = np.empty(len(order_V), np.int64)
    rank_V[order_V] = np.arange(len(order_V))
    return rank_V
