"""A prepared log and the process that made it: its truth, and the process's items in the log's own ids."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
from jaxtyping import Int

from sessionrec_jax.data.codes import CLICKED
from sessionrec_jax.data.store import FlatLog, Prepared
from sessionrec_jax.data.synthetic.process import ZipfIntent
from sessionrec_jax.data.synthetic.truth import Truth


def known_truth(log: Prepared) -> Truth | None:
    """Returns the truth of a synthetic log; None for any other."""
    return _truth(log.path, log.fingerprint)


@functools.lru_cache(maxsize=4)
def _truth(path: Path, fingerprint: str) -> Truth | None:
    del fingerprint  # part of the cache's key: a folder that was prepared again may have another process
    if not (path / "truth.json").exists():
        return None
    return Truth(ZipfIntent(**json.loads((path / "truth.json").read_text())))


def published_ids(log: Prepared) -> Int[np.ndarray, " V"]:
    """Returns the process's item_id of each dense id; -1 for padding."""
    return np.append(-1, log.item_ids().to_numpy())


def dense_ids(log: Prepared, items: int) -> Int[np.ndarray, " K"]:
    """Returns the dense id of each of the process's `items`; 0 for one that the log does not have."""
    dense_K, published_V = np.zeros(items, np.int64), published_ids(log)
    dense_K[published_V[1:]] = np.arange(1, len(published_V))
    return dense_K


def anchors(log: FlatLog) -> Int[np.ndarray, " S"]:
    """Returns the context item of each session of a synthetic log."""
    is_anchor_N = log.feedback_N > CLICKED
    anchor_S = np.zeros(len(log.session_items_S), np.int64)
    anchor_S[np.repeat(np.arange(len(anchor_S)), log.session_items_S)[is_anchor_N]] = log.item_N[is_anchor_N]
    return anchor_S
