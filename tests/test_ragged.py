"""Index arithmetic on ragged arrays, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from sessionrec_jax.data.ragged import offsets, ranges, spans


@pytest.mark.parametrize("pieces", [0, 1, 9])
def test_spans_and_ranges_count_through_every_piece(pieces):
    rng = np.random.default_rng(pieces)
    first_X = rng.integers(0, 20, pieces)
    last_X = first_X + rng.integers(0, 4, pieces)
    wanted = [(n, x) for x in range(pieces) for n in range(first_X[x], last_X[x])]
    number_Y, piece_Y = spans(first_X, last_X)
    assert list(zip(number_Y.tolist(), piece_Y.tolist(), strict=True)) == wanted
    assert ranges(first_X, last_X).tolist() == number_Y.tolist()
    assert offsets(last_X - first_X)[-1] == len(number_Y)
