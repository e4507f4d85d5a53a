"""Index arithmetic on ragged arrays stored flat. Letters: X pieces, Y entries of all pieces."""

from __future__ import annotations

import numpy as np


def spans(first_X: np.ndarray, last_X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the numbers first, ..., last - 1 of each piece, one piece after the other, and the piece of each."""
    length_X = last_X - first_X
    piece_Y = np.repeat(np.arange(len(length_X)), length_X)
    return np.arange(len(piece_Y)) + (first_X - (np.cumsum(length_X) - length_X))[piece_Y], piece_Y


def ranges(first_X: np.ndarray, last_X: np.ndarray) -> np.ndarray:
    """Returns the numbers of `spans` alone."""
    return spans(first_X, last_X)[0]


def count_up(length_X: np.ndarray) -> np.ndarray:
    """Returns 0, 1, ..., length - 1 for each piece, one piece after the other."""
    return ranges(np.zeros_like(length_X), length_X)


def offsets(length_X: np.ndarray) -> np.ndarray:
    """Returns the index at which each piece begins, and then the whole length."""
    return np.append(0, np.cumsum(length_X, dtype=np.int64))
