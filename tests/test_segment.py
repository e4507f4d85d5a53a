"""Segment operations against a loop, on ragged segments of any order; their gradients against finite differences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from sessionrec_jax.model.segment import segment_mean, segment_sum

SEGMENTS, ITEMS, WIDTH = 6, 11, 3
REDUCE = {"sum": np.sum, "mean": np.mean}
ids = st.lists(st.integers(0, SEGMENTS), min_size=ITEMS, max_size=ITEMS).map(np.array)  # SEGMENTS is padding


def packed(name: str, x_TD, segment_T: np.ndarray, **promise: bool) -> jax.Array:
    operation = {"sum": segment_sum, "mean": segment_mean}[name]
    return operation(jnp.asarray(x_TD), jnp.asarray(segment_T), SEGMENTS, **promise)


def by_loop(name: str, x_TD: np.ndarray, segment_T: np.ndarray) -> np.ndarray:
    rows = [x_TD[segment_T == s] for s in range(SEGMENTS)]
    return np.stack([REDUCE[name](row, axis=0) if len(row) else np.zeros(WIDTH) for row in rows])


@pytest.fixture
def x_TD():
    return np.random.default_rng(0).normal(size=(ITEMS, WIDTH)).astype(np.float32)


@pytest.mark.parametrize("name", REDUCE)
@settings(deadline=None, max_examples=30)
@given(segment_T=ids, seed=st.integers(0, 2**16))
def test_equals_a_loop_for_any_ids(name, segment_T, seed):
    x_TD = np.random.default_rng(seed).normal(size=(ITEMS, WIDTH)).astype(np.float32)
    np.testing.assert_allclose(packed(name, x_TD, segment_T), by_loop(name, x_TD, segment_T), atol=1e-6)
    in_order = np.sort(segment_T)
    promised = packed(name, x_TD, in_order, is_sorted=True)
    np.testing.assert_array_equal(promised, packed(name, x_TD, in_order))


@pytest.mark.parametrize("name", REDUCE)
def test_padding_and_empty_segments_hold_nothing(name, x_TD):
    segment_T = np.full(ITEMS, SEGMENTS)
    segment_T[0] = 2
    out_SD = packed(name, x_TD, segment_T)
    np.testing.assert_array_equal(out_SD, np.where(np.arange(SEGMENTS)[:, None] == 2, x_TD[0], 0))


@pytest.mark.parametrize("name", REDUCE)
def test_the_order_of_items_does_not_matter(name, x_TD):
    rng = np.random.default_rng(1)
    segment_T, order_T = rng.integers(0, SEGMENTS + 1, ITEMS), rng.permutation(ITEMS)
    shuffled = packed(name, x_TD[order_T], segment_T[order_T])
    np.testing.assert_allclose(shuffled, packed(name, x_TD, segment_T), atol=1e-6)


@pytest.mark.parametrize("name", REDUCE)
def test_gradients_agree_with_finite_differences(name, x_TD):
    segment_T = np.array([0, 0, 0, 1, 3, 3, 5, 5, 5, SEGMENTS, SEGMENTS])  # 2 and 4 are empty
    check_grads(lambda x: jnp.sin(packed(name, x, segment_T)), (x_TD,), order=2, modes=["fwd", "rev"], eps=1e-2)
    grad_TD = jax.grad(lambda x: jnp.sum(packed(name, x, segment_T) ** 2))(x_TD)
    assert np.all(np.isfinite(grad_TD))
    assert np.all(grad_TD[segment_T == SEGMENTS] == 0)


@pytest.mark.parametrize("name", REDUCE)
def test_bfloat16_is_accumulated_in_float32(name):
    ones_TD = jnp.ones((1_000, 1), jnp.bfloat16)  # a bfloat16 sum of ones stops at 256
    out_SD = packed(name, ones_TD, np.zeros(1_000, np.int32))
    assert out_SD.dtype == jnp.float32
    assert out_SD[0, 0] == {"sum": 1_000, "mean": 1}[name]
