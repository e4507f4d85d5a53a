"""Predictors without parameters, scored by the same metrics: popularity, and the last session's items repeated."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from sessionrec_jax.data.batches import CLICKED, Batch
from sessionrec_jax.data.catalogue import Catalogue


def popularity_rank(catalogue: Catalogue) -> Int[np.ndarray, " V"]:
    """Place of each item by training clicks, 0 = most clicked; ties by id. Padding comes last."""
    rank_V = np.empty(catalogue.items + 1, np.int64)
    rank_V[np.argsort(-catalogue.log_popularity_V, kind="stable")] = np.arange(catalogue.items + 1)
    return rank_V


def popularity_rank_nats(catalogue: Catalogue, item_N: np.ndarray, clicked_N: np.ndarray) -> np.ndarray:
    """Binary cross-entropy of each exposure under its item's smoothed click rate, nats."""
    rate_N = np.clip(catalogue.click_rate_V[item_N].astype(np.float64), 1e-9, 1 - 1e-9)
    return -np.where(clicked_N, np.log(rate_N), np.log1p(-rate_N))


def repeat_rank(batch: Batch, shard: int, scored_N: np.ndarray, popularity_rank_V: np.ndarray) -> np.ndarray:
    """Rank of the scored items when the previous session's items are recommended again, clicked ones first, each
    group by popularity, and after them the whole catalogue by popularity.

    `scored_N`: places of the scored items among the shard's T item slots.
    """
    item_T, feedback_T, session_T = batch.item_GT[shard], batch.feedback_GT[shard], batch.session_of_item_GT[shard]
    rank_N = np.empty(len(scored_N), np.int64)
    shown: dict[int, np.ndarray] = {}
    for n, place in enumerate(scored_N):
        query = int(session_T[place]) - 1
        if query not in shown:
            start, stop = np.searchsorted(session_T, [query, query + 1])
            items, feedback = item_T[start:stop], feedback_T[start:stop]
            order = np.lexsort((popularity_rank_V[items], feedback != CLICKED))
            _, first = np.unique(items[order], return_index=True)
            shown[query] = items[order][np.sort(first)]
        repeated, item = shown[query], item_T[place]
        found = np.flatnonzero(repeated == item)
        later = np.count_nonzero(popularity_rank_V[repeated] > popularity_rank_V[item])
        rank_N[n] = found[0] if len(found) else popularity_rank_V[item] + later
    return rank_N
