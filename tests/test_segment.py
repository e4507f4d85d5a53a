"""Segment operations against a loop, on ragged segments of any order; their gradients against finite differences."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from grid import mostly_slow
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from sessionrec_jax.model.segment import (
    LEAST_BLOCK,
    segment_attention,
    segment_logsumexp,
    segment_max,
    segment_mean,
    segment_softmax,
    segment_sum,
)

SEGMENTS, ITEMS, WIDTH = 6, 11, 3


def log_sum_exp(row_TD: np.ndarray, axis: int) -> np.ndarray:
    return np.log(np.exp(row_TD.astype(np.float64)).sum(axis=axis))


REDUCE = {  # ours, numpy's, and the value of an empty segment
    "sum": (segment_sum, np.sum, 0.0),
    "mean": (segment_mean, np.mean, 0.0),
    "max": (segment_max, np.max, 0.0),
    "logsumexp": (segment_logsumexp, log_sum_exp, -np.inf),
}
ids = st.lists(st.integers(0, SEGMENTS), min_size=ITEMS, max_size=ITEMS).map(np.array)  # SEGMENTS is padding


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def packed(name: str, x_TD, segment_T: np.ndarray, **promise: bool) -> jax.Array:
    return REDUCE[name][0](jnp.asarray(x_TD), jnp.asarray(segment_T), SEGMENTS, **promise)


def by_loop(name: str, x_TD: np.ndarray, segment_T: np.ndarray) -> np.ndarray:
    _, reduce, empty = REDUCE[name]
    rows = [x_TD[segment_T == s] for s in range(SEGMENTS)]
    return np.stack([reduce(row, axis=0) if len(row) else np.full(WIDTH, empty) for row in rows])


@pytest.fixture
def x_TD():
    return normal(0, ITEMS, WIDTH)


# The reductions.


@pytest.mark.parametrize("name", REDUCE)
@settings(deadline=None, max_examples=30)
@given(segment_T=ids, seed=st.integers(0, 2**16))
def test_equals_a_loop_for_any_ids(name, segment_T, seed):
    x_TD = normal(seed, ITEMS, WIDTH)
    np.testing.assert_allclose(packed(name, x_TD, segment_T), by_loop(name, x_TD, segment_T), rtol=1e-5, atol=1e-6)
    in_order = np.sort(segment_T)
    promised = packed(name, x_TD, in_order, is_sorted=True)
    np.testing.assert_array_equal(promised, packed(name, x_TD, in_order))


@pytest.mark.parametrize("name", REDUCE)
def test_padding_and_empty_segments_hold_nothing(name, x_TD):
    segment_T = np.full(ITEMS, SEGMENTS)
    segment_T[0] = 2
    x_TD[1:] = np.nan  # whatever a padding row holds
    out_SD = packed(name, x_TD, segment_T)
    of_2_S1 = np.arange(SEGMENTS)[:, None] == 2
    np.testing.assert_array_equal(out_SD, np.where(of_2_S1, x_TD[0], np.float32(REDUCE[name][2])))


@pytest.mark.parametrize("name", REDUCE)
def test_the_order_of_items_does_not_matter(name, x_TD):
    rng = np.random.default_rng(1)
    segment_T, order_T = rng.integers(0, SEGMENTS + 1, ITEMS), rng.permutation(ITEMS)
    shuffled = packed(name, x_TD[order_T], segment_T[order_T])
    np.testing.assert_allclose(shuffled, packed(name, x_TD, segment_T), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", mostly_slow(REDUCE, quick=["mean", "logsumexp"]))
def test_gradients_agree_with_finite_differences(name, x_TD):
    segment_T = np.array([0, 0, 0, 1, 3, 3, 5, 5, 5, SEGMENTS, SEGMENTS])  # 2 and 4 are empty
    full_S = np.array([0, 1, 3, 5])
    of_full = jax.jit(lambda x: jnp.sin(packed(name, x, segment_T)[full_S]))
    check_grads(of_full, (x_TD,), order=2, modes=["fwd", "rev"], eps=1e-2)
    grad_TD = jax.jit(jax.grad(lambda x: jnp.sum(jnp.tanh(packed(name, x, segment_T)))))(x_TD)  # of empty ones too
    assert np.all(np.isfinite(grad_TD))
    assert np.all(grad_TD[segment_T == SEGMENTS] == 0)


@pytest.mark.parametrize("name", REDUCE)
def test_bfloat16_is_accumulated_in_float32(name):
    ones_TD = jnp.ones((1_000, 1), jnp.bfloat16)  # a bfloat16 sum of ones stops at 256
    out_SD = packed(name, ones_TD, np.zeros(1_000, np.int32))
    assert out_SD.dtype == jnp.float32
    wanted = {"sum": 1_000, "mean": 1, "max": 1, "logsumexp": 1 + np.log(1_000)}[name]
    np.testing.assert_allclose(out_SD[0, 0], wanted, rtol=1e-6)


def test_items_that_share_the_largest_value_share_its_gradient():
    segment_T = np.array([0, 0, 0, 1, 1, 2, SEGMENTS, SEGMENTS, 2, 2, 2])
    top_TD = np.where(np.isin(np.arange(ITEMS), [0, 2, 3, 5, 8, 9, 10]), 2.0, 1.0)[:, None]
    grad_TD = jax.grad(lambda x: packed("max", x, segment_T).sum())(jnp.asarray(top_TD))
    np.testing.assert_allclose(grad_TD[:, 0], [0.5, 0, 0.5, 1, 0, 0.25, 0, 0, 0.25, 0.25, 0.25])


# The softmax.


@settings(deadline=None, max_examples=20)
@given(segment_T=ids, seed=st.integers(0, 2**16), shift=st.sampled_from([0.0, 1e4, -1e4]))
def test_softmax_is_that_of_each_segment_wherever_its_logits_lie(segment_T, seed, shift):
    logit_TD = normal(seed, ITEMS, WIDTH)
    moved_TD = (logit_TD + shift * (segment_T[:, None] % 2)).astype(np.float32)
    weight_TD = np.asarray(segment_softmax(jnp.asarray(moved_TD), jnp.asarray(segment_T), SEGMENTS))
    exp_TD = np.exp(moved_TD.astype(np.float64) - shift * (segment_T[:, None] % 2))
    for segment in range(SEGMENTS):
        own_T = segment_T == segment
        np.testing.assert_allclose(weight_TD[own_T], exp_TD[own_T] / exp_TD[own_T].sum(axis=0), rtol=1e-4, atol=1e-6)
    assert np.all(weight_TD[segment_T == SEGMENTS] == 0)


def test_softmax_is_the_gradient_of_logsumexp(x_TD):
    segment_T = jnp.array([5, 0, 1, 0, SEGMENTS, 3, 3, 5, 5, 0, SEGMENTS])
    grad_TD = jax.grad(lambda x: jnp.sum(segment_logsumexp(x, segment_T, SEGMENTS)[jnp.array([0, 1, 3, 5])]))(x_TD)
    np.testing.assert_allclose(segment_softmax(jnp.asarray(x_TD), segment_T, SEGMENTS), grad_TD, rtol=1e-5)
    cubed = jax.jit(lambda x: segment_softmax(x, segment_T, SEGMENTS) ** 3)
    check_grads(cubed, (x_TD,), order=2, modes=["fwd", "rev"], eps=1e-2)


@pytest.mark.parametrize("operation", [segment_softmax, segment_logsumexp])
def test_a_logit_of_minus_infinity_takes_its_item_out(operation, x_TD):
    segment_T = np.array([0, 0, 0, 1, 1, 3, 3, 3, 5, 5, SEGMENTS])
    out_T = np.isin(np.arange(ITEMS), [1, 3, 4, 9])  # of 0 and 5 some, of 1 all
    masked_TD = jnp.where(out_T[:, None], -jnp.inf, x_TD)
    masked, removed = (
        operation(x, jnp.asarray(segments_T), SEGMENTS)
        for x, segments_T in ((masked_TD, segment_T), (jnp.asarray(x_TD), np.where(out_T, SEGMENTS, segment_T)))
    )
    np.testing.assert_array_equal(masked, removed)
    grad_TD = jax.grad(lambda x: jnp.sum(jnp.tanh(operation(x, jnp.asarray(segment_T), SEGMENTS))))(masked_TD)
    assert np.all(np.isfinite(grad_TD))
    assert np.all(grad_TD[out_T] == 0)


def test_softmax_of_bfloat16_is_in_float32():
    weight_TD = segment_softmax(jnp.zeros((1_000, 1), jnp.bfloat16), jnp.zeros(1_000, jnp.int32), 1)
    assert weight_TD.dtype == jnp.float32
    np.testing.assert_allclose(weight_TD, 1e-3, rtol=1e-5)


# Attention within a segment.

HEADS, HEAD_WIDTH, MOST_SEGMENTS = 2, 4, 9
LONGEST = LEAST_BLOCK + 3
lengths = st.lists(st.integers(0, LONGEST), min_size=1, max_size=MOST_SEGMENTS)
attention = jax.jit(segment_attention, static_argnums=(4, 5))


def qkv(seed: int, items: int) -> list[jax.Array]:
    return [jnp.asarray(x_TNH) for x_TNH in normal(seed, 3, items, HEADS, HEAD_WIDTH)]


def dense_attention(q_TNH, k_TNH, v_TNH, segment_T, segments: int) -> np.ndarray:
    q_TNH, k_TNH, v_TNH = (np.asarray(x, np.float64) for x in (q_TNH, k_TNH, v_TNH))
    sees_TU = (segment_T[:, None] == segment_T) & (segment_T < segments)[:, None]
    exp_NTU = np.exp(np.einsum("TNH,UNH->NTU", q_TNH, k_TNH) / np.sqrt(q_TNH.shape[-1])) * sees_TU
    return np.einsum("NTU,UNH->TNH", exp_NTU / np.maximum(exp_NTU.sum(axis=-1, keepdims=True), 1e-30), v_TNH)


@settings(deadline=None, max_examples=25)
@given(lengths=lengths, padding=st.integers(0, 5), dropped=st.sampled_from([0.0, 0.3]), seed=st.integers(0, 2**16))
def test_attention_is_a_dense_masked_softmax(lengths, padding, dropped, seed):
    items, segments = 64, MOST_SEGMENTS
    segment_T = np.repeat(np.arange(len(lengths)), lengths)[: items - padding]
    segment_T = np.append(segment_T, np.full(items - len(segment_T), segments))
    segment_T = np.where(np.random.default_rng(seed).random(items) < dropped, segments, segment_T)
    q, k, v = qkv(seed, items)
    found_TNH = np.asarray(attention(q, k, v, jnp.asarray(segment_T), segments, LONGEST))
    np.testing.assert_allclose(found_TNH, dense_attention(q, k, v, segment_T, segments), rtol=1e-4, atol=1e-5)
    assert np.all(found_TNH[segment_T == segments] == 0)


@pytest.mark.parametrize("longest", [1, LEAST_BLOCK, 13, 40])
def test_segments_of_the_greatest_length_are_seen_whole_wherever_they_begin(longest):
    items = 45
    for begin in range(0, items - longest + 1, 3):
        segment_T = np.where((np.arange(items) >= begin) & (np.arange(items) < begin + longest), 1, 2)
        found_TNH = attention(*qkv(begin, items), jnp.asarray(segment_T), 2, longest)
        np.testing.assert_allclose(found_TNH, dense_attention(*qkv(begin, items), segment_T, 2), rtol=1e-4, atol=1e-5)


def test_attention_has_the_gradients_of_finite_differences_and_none_across_segments():
    segment_T = jnp.array([0, 0, 0, 1, 3, 4, 3, 3, 4, 4, 4])
    of_items = jax.jit(functools.partial(segment_attention, segment_T=segment_T, segments=4, longest=4))
    check_grads(of_items, qkv(0, ITEMS), order=1, modes=["fwd", "rev"], eps=1e-2)
    jacobians = jax.jit(jax.jacrev(of_items, argnums=(0, 1, 2)))(*qkv(0, ITEMS))
    jacobian_TU = sum(np.abs(jacobian).sum(axis=(1, 2, 4, 5)) for jacobian in jacobians)
    assert np.array_equal(jacobian_TU > 0, (segment_T[:, None] == segment_T) & (segment_T < 4))


def test_attention_of_bfloat16_weighs_in_float32():
    q, k, _ = (x.astype(jnp.bfloat16) for x in qkv(0, 500))
    found_TNH = attention(0 * q, k, jnp.ones_like(k), jnp.zeros(500, jnp.int32), 1, 500)
    assert found_TNH.dtype == jnp.float32
    np.testing.assert_allclose(found_TNH, 1, rtol=5e-3)  # 500 weights of 1 / 500, each rounded to bfloat16


def test_no_array_of_attention_grows_faster_than_the_items():
    longest, sizes = LEAST_BLOCK, []
    for items in (1_000, 2_000):
        shape = jax.ShapeDtypeStruct((items, HEADS, HEAD_WIDTH), jnp.float32)
        jaxpr = jax.make_jaxpr(lambda q, k, v, segment_T: segment_attention(q, k, v, segment_T, 9, longest))(
            *[shape] * 3, jax.ShapeDtypeStruct((items,), jnp.int32)
        )
        sizes.append(max(out.aval.size for equation in jaxpr.eqns for out in equation.outvars))
    assert sizes == [items * 3 * longest * HEADS for items in (1_000, 2_000)]
