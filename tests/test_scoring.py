"""Scores over the catalogue in chunks, and over rows spread on a mesh, equal those of whole rows."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from grid import mostly_slow

from sessionrec_jax.config.settings import Mesh
from sessionrec_jax.devices.mesh import batch_shards, make_mesh
from sessionrec_jax.evaluation.scoring import (
    BLOCK,
    ITEMS_AT_ONCE,
    PAIRS,
    ItemTable,
    log_sum_and_ranks,
    over_rows,
    pair_scores,
    pairs_scores,
    stack_pairs,
    top_k,
)

MESHES = [Mesh(1), Mesh(8), Mesh(4, 1, 2), Mesh(2, 1, 4), Mesh(1, 1, 8)]


@functools.partial(jax.jit, static_argnums=(0, 1))
def over(mesh, function, e_RD, bias_R, *batch):
    """Runs `function` with the arrays of a batch spread over the shards of a mesh, and gathers the result."""
    shards = batch_shards(mesh)
    spread = jax.tree.map(lambda x: x.reshape(shards, len(x) // shards, *x.shape[1:]), batch)
    found = over_rows(mesh, function, ItemTable(e_RD, bias_R), spread)
    return jax.tree.map(lambda x_G: x_G.reshape(-1, *x_G.shape[2:]), found)


def asked(query_QD, item_QK, score_QV):
    """Returns the items of each query by ascending score, and their scores; item 0 is none and comes last."""
    least_QK = np.where(item_QK > 0, np.take_along_axis(score_QV, item_QK, axis=1), np.inf).astype(np.float32)
    order_QK = np.argsort(least_QK, axis=1, kind="stable")
    return query_QD, np.take_along_axis(item_QK, order_QK, axis=1), np.take_along_axis(least_QK, order_QK, axis=1)


@pytest.fixture(scope="module")
def dense():
    """Returns embeddings, biases, queries with one to eight items, and all scores as small whole numbers, so scores are
    exact and many tie.
    """
    rng = np.random.default_rng(0)
    e_VD, bias_V = rng.integers(-2, 3, (40, 3)).astype(np.float32), rng.integers(0, 2, 40).astype(np.float32)
    bias_V[0] = -np.inf
    query_QD = rng.integers(-2, 3, (8 * BLOCK, 3)).astype(np.float32)
    item_QK = rng.integers(1, 40, (8 * BLOCK, 8)).astype(np.int32)
    item_QK[np.arange(8) >= rng.integers(1, 9, (8 * BLOCK, 1))] = 0
    score_QV = query_QD @ e_VD.T + bias_V
    return e_VD, bias_V, *asked(query_QD, item_QK, score_QV), score_QV


@pytest.mark.parametrize(
    ("axes", "size"),
    mostly_slow(
        [(Mesh(1), 40), *((axes, 7) for axes in MESHES)], quick=[(Mesh(1), 7), (Mesh(2, 1, 4), 7)], several=True
    ),
    ids=str,
)
def test_rows_in_chunks_give_what_whole_ones_give_and_ties_count_against_the_item(dense, axes, size):
    e_VD, bias_V, query_QD, item_QK, least_QK, score_QV = dense
    measure = functools.partial(log_sum_and_ranks, chunk_items=size)
    log_sum_Q, rank_QK = over(make_mesh(axes), measure, e_VD, bias_V, query_QD, item_QK, least_QK)
    above_QK = np.sum(score_QV[:, None, :] >= least_QK[:, :, None], axis=2)
    np.testing.assert_array_equal(rank_QK[item_QK > 0], above_QK[item_QK > 0] - 1)
    np.testing.assert_allclose(log_sum_Q, np.log(np.exp(score_QV.astype(np.float64)).sum(axis=1)), rtol=1e-6, atol=1e-6)


def test_a_query_with_many_items_gets_the_ranks_that_each_item_gets_alone(dense):
    e_VD, bias_V, query_QD, item_QK, least_QK, _ = dense
    find = functools.partial(over, make_mesh(Mesh(1)), log_sum_and_ranks, e_VD, bias_V, query_QD)
    together_QK = find(item_QK, least_QK)[1]
    for number in range(item_QK.shape[1]):
        fill = ((0, 0), (0, ITEMS_AT_ONCE - 1))
        alone_Q1 = np.pad(item_QK[:, [number]], fill), np.pad(least_QK[:, [number]], fill, constant_values=np.inf)
        is_asked = item_QK[:, number] > 0
        np.testing.assert_array_equal(find(*alone_Q1)[1][is_asked, 0], together_QK[is_asked, number])


def test_blocks_without_an_item_have_no_sum(dense):
    e_VD, bias_V, query_QD, item_QK, least_QK, _ = dense
    item_QK, least_QK = item_QK.copy(), least_QK.copy()
    item_QK[BLOCK:], least_QK[BLOCK:] = 0, np.inf
    log_sum_Q, rank_QK = over(make_mesh(Mesh(1)), log_sum_and_ranks, e_VD, bias_V, query_QD, item_QK, least_QK)
    assert np.all(np.asarray(log_sum_Q)[:BLOCK] > 0)
    assert not np.asarray(log_sum_Q)[BLOCK:].any()
    assert not np.asarray(rank_QK)[BLOCK:].any()


@pytest.mark.parametrize("axes", [Mesh(1), Mesh(1, 1, 8)], ids=str)
def test_pairs_have_the_scores_of_whole_rows(dense, axes):
    e_VD, bias_V, query_QD, _, _, score_QV = dense
    rng = np.random.default_rng(1)
    query_M, item_M = rng.integers(0, len(query_QD) + 1, PAIRS), rng.integers(1, 40, PAIRS)  # some are padding
    score_M = over(make_mesh(axes), pairs_scores, e_VD, bias_V, query_QD, (query_M, item_M))
    real = query_M < len(query_QD)
    np.testing.assert_array_equal(np.asarray(score_M)[real], score_QV[query_M[real], item_M[real]])


@pytest.mark.parametrize("axes", [Mesh(1), Mesh(1, 1, 8)], ids=str)
def test_equal_embeddings_tie_whatever_the_rounding_and_no_number_is_worst(axes):
    rng = np.random.default_rng(2)
    e_VD = np.tile(rng.normal(size=16).astype(np.float32), (32, 1))
    query_QD = 10 * rng.normal(size=(BLOCK, 16)).astype(np.float32)
    query_QD[0] = np.nan
    bias_V = np.append(-np.inf, np.full(31, -3.1)).astype(np.float32)
    own_Q, tie_Q = over(make_mesh(axes), pair_scores, e_VD, bias_V, query_QD, np.full(BLOCK, 5))
    least_Q = np.nan_to_num(own_Q - tie_Q, nan=np.finfo(np.float32).min)
    item_QK, least_QK = np.zeros((BLOCK, 4), np.int32), np.full((BLOCK, 4), np.inf, np.float32)
    item_QK[:, 0], least_QK[:, 0] = 5, least_Q
    measure = functools.partial(log_sum_and_ranks, chunk_items=7)
    _, rank_QK = over(make_mesh(axes), measure, e_VD, bias_V, query_QD, item_QK, least_QK)
    assert np.all(rank_QK[:, 0] == 30)


@pytest.mark.parametrize(
    ("axes", "k"),
    mostly_slow(
        [(Mesh(1), 1), (Mesh(1), 39), (Mesh(8), 5), (Mesh(4, 1, 2), 6), (Mesh(2, 1, 4), 20), (Mesh(1, 1, 8), 17)],
        quick=[(Mesh(1), 39), (Mesh(2, 1, 4), 20)],
        several=True,
    ),
    ids=str,
)
def test_top_k_equals_a_full_sort(axes, k):
    """Chunks shorter and longer than k, devices with fewer rows than k, and ties, which keep the catalogue's order."""
    rng, mesh = np.random.default_rng(k), make_mesh(axes)
    e_RD, query_BD = rng.integers(-2, 3, (40, 3)).astype(np.float32), rng.integers(-2, 3, (16, 3)).astype(np.float32)
    bias_R = rng.integers(0, 2, 40).astype(np.float32)
    bias_R[0] = -np.inf  # padding
    shards, best = batch_shards(mesh), functools.partial(top_k, k=k, chunk_items=7)
    item_BK, log_prob_BK = map(np.asarray, over(mesh, best, e_RD, bias_R, query_BD, None))
    score_BV = query_BD @ e_RD.T + bias_R
    best_BK = np.argsort(-score_BV, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(item_BK, best_BK)
    log_prob_BV = score_BV - np.log(np.exp(score_BV.astype(np.float64)).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(log_prob_BK, np.take_along_axis(log_prob_BV, best_BK, axis=1), rtol=1e-6, atol=1e-6)
    assert 0 not in item_BK

    seen_BV = rng.random(score_BV.shape) < rng.random((16, 1))
    pairs = stack_pairs([np.nonzero(seen_XV) for seen_XV in np.split(seen_BV, shards)], 16 // shards)
    seen_M = tuple(x_GM.reshape(-1) for x_GM in pairs)
    new_BK, new_log_prob_BK = map(np.asarray, over(mesh, best, e_RD, bias_R, query_BD, seen_M))
    masked_BV = np.where(seen_BV, -np.inf, score_BV)
    for query, best_K in enumerate(np.argsort(-masked_BV, axis=1, kind="stable")[:, :k]):
        best_K = best_K[masked_BV[query, best_K] > -np.inf]
        np.testing.assert_array_equal(new_BK[query, : len(best_K)], best_K)
        np.testing.assert_allclose(new_log_prob_BK[query, : len(best_K)], log_prob_BV[query, best_K], atol=1e-5)
        assert np.all(new_log_prob_BK[query, len(best_K) :] == -np.inf)
