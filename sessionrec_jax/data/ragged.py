"""Index arithmetic on ragged arrays that lie flat. Letters: X pieces."""

from __future__ import annotations

import numpy as np


def ranges(first_X: np.ndarray, last_X: np.ndarray) -> np.ndarray:
    """first, ..., last - 1 of each piece, one after the other."""
    length_X = last_X - first_X
    return np.arange(length_X.sum()) + np.repeat(first_X - (np.cumsum(length_X) - length_X), length_X)


def offsets(length_X: np.ndarray) -> np.ndarray:
    """Where each piece begins, and after the last of them the whole length."""
    return np.append(0, np.cumsum(length_X, dtype=np.int64))
