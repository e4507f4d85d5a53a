"""Scores over the catalogue in chunks, and over rows spread on a mesh, equal those of whole rows."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from sessionrec_jax.config.settings import Mesh
from sessionrec_jax.devices.mesh import batch_shards, make_mesh
from sessionrec_jax.evaluation.scoring import (
    BLOCK,
    PAIRS,
    ItemTable,
    count_above,
    log_prob_and_rank,
    over_rows,
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


@pytest.fixture(scope="module")
def dense():
    """Returns embeddings, biases, queries, items and all scores as small whole numbers, so scores are exact and
    many tie.
    """
    rng = np.random.default_rng(0)
    e_VD, bias_V = rng.integers(-2, 3, (40, 3)).astype(np.float32), rng.integers(0, 2, 40).astype(np.float32)
    bias_V[0] = -np.inf
    query_QD = rng.integers(-2, 3, (8 * BLOCK, 3)).astype(np.float32)
    return e_VD, bias_V, query_QD, rng.integers(1, 40, 8 * BLOCK).astype(np.int32), query_QD @ e_VD.T + bias_V


@pytest.mark.parametrize(("axes", "size"), [(Mesh(1), 40), *((axes, 7) for axes in MESHES)], ids=str)
def test_rows_in_chunks_give_what_whole_ones_give_and_ties_count_against_the_item(dense, axes, size):
    e_VD, bias_V, query_QD, item_Q, score_QV = dense
    measure = functools.partial(log_prob_and_rank, chunk_items=size)
    log_prob_Q, rank_Q = over(make_mesh(axes), measure, e_VD, bias_V, query_QD, item_Q)
    own_Q = score_QV[np.arange(len(item_Q)), item_Q]
    np.testing.assert_array_equal(rank_Q, np.sum(score_QV >= own_Q[:, None], axis=1) - 1)
    log_sum_Q = np.log(np.exp(score_QV.astype(np.float64)).sum(axis=1))
    np.testing.assert_allclose(log_prob_Q, own_Q - log_sum_Q, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("axes", [Mesh(1), Mesh(1, 1, 8)], ids=str)
def test_pairs_are_counted_as_whole_rows_would(dense, axes):
    e_VD, bias_V, query_QD, item_Q, score_QV = dense
    rng = np.random.default_rng(1)
    query_M, item_M = rng.integers(0, len(item_Q) + 1, PAIRS), rng.integers(1, 40, PAIRS)  # some are padding
    above_Q = over(make_mesh(axes), count_above, e_VD, bias_V, query_QD, item_Q, (query_M, item_M))
    real = query_M < len(item_Q)
    is_above = score_QV[query_M[real], item_M[real]] >= score_QV[query_M[real], item_Q[query_M[real]]]
    np.testing.assert_array_equal(above_Q, np.bincount(query_M[real], is_above, len(item_Q)))


@pytest.mark.parametrize("axes", [Mesh(1), Mesh(1, 1, 8)], ids=str)
def test_equal_embeddings_tie_whatever_the_rounding_and_no_number_is_worst(axes):
    rng = np.random.default_rng(2)
    e_VD = np.tile(rng.normal(size=16).astype(np.float32), (32, 1))
    query_QD = 10 * rng.normal(size=(BLOCK, 16)).astype(np.float32)
    query_QD[0] = np.nan
    bias_V = np.append(-np.inf, np.full(31, -3.1)).astype(np.float32)
    measure = functools.partial(log_prob_and_rank, chunk_items=7)
    _, rank_Q = over(make_mesh(axes), measure, e_VD, bias_V, query_QD, np.full(BLOCK, 5))
    assert np.all(rank_Q == 30)


@pytest.mark.parametrize(
    ("axes", "k"),
    [(Mesh(1), 1), (Mesh(1), 39), (Mesh(8), 5), (Mesh(4, 1, 2), 6), (Mesh(2, 1, 4), 20), (Mesh(1, 1, 8), 17)],
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
