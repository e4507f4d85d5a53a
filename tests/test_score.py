"""Tests the score: lengths and angles under cosine, the temperature, and dot as the plain case."""

from __future__ import annotations

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from grid import mostly_slow

from sessionrec_jax.config.settings import Model
from sessionrec_jax.data.catalogue import from_counts
from sessionrec_jax.model import sessionrec
from sessionrec_jax.model.sessionrec import unit_length
from sessionrec_jax.model.spec import Inputs, Spec

IDS = 9
MODEL = Model(width=4, layers=0, heads=1, id_width=3)
INPUTS = Inputs(*map(jnp.asarray, ([3, 1, 2, 0], [1, 0, 1, 0], [0, 0, 1, 3], [[1, 1, 0]], [[0, 1, 0]], [[0, 9, 0]])))


apply = jax.jit(sessionrec.apply, static_argnums=0)


@functools.cache
def build(**settings):
    """Returns spec, parameters away from their start, embeddings and queries of INPUTS."""
    spec = Spec(replace(MODEL, **settings), IDS, (), 2, 3, 2)
    clicks_V = np.arange(IDS)
    params = sessionrec.init(spec, jax.random.key(0), from_counts(clicks_V, 2 * clicks_V, {}, {}))
    heads = dict(params["heads"])
    for seed, name in enumerate(("retrieval", "rank")):
        heads[name] = jax.random.normal(jax.random.key(seed), (MODEL.width, MODEL.width))
    params = {**params, "heads": heads}
    return spec, params, *apply(spec, params, INPUTS, {})


def length(x_ND) -> np.ndarray:
    return np.linalg.norm(x_ND, axis=1)


def test_under_cosine_items_and_retrieval_queries_have_length_one():
    spec, params, e_TD, queries = build(score="cosine")
    for x_ND in (
        e_TD,
        queries.retrieval_SD[:2],
        jax.jit(sessionrec.embed, static_argnums=0)(spec, params, jnp.arange(IDS), {}),
    ):
        np.testing.assert_allclose(length(x_ND), 1, rtol=1e-5)
    assert np.all(np.abs(length(queries.rank_SD[:2]) - 1) > 1e-3)


def test_cosine_has_the_directions_of_dot_and_the_same_session_encoder():
    _, _, e_TD, queries = build(score="cosine")
    _, _, plain_TD, plain = build(score="dot")
    np.testing.assert_allclose(e_TD, plain_TD / length(plain_TD)[:, None], rtol=1e-5, atol=1e-6)
    unit_SD = plain.retrieval_SD[:2] / length(plain.retrieval_SD[:2])[:, None]
    np.testing.assert_allclose(queries.retrieval_SD[:2], unit_SD, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(queries.rank_SD, plain.rank_SD)


@pytest.mark.parametrize("score", mostly_slow(["dot", "cosine"], quick=["cosine"]))
def test_the_temperature_divides_the_retrieval_query_learned_or_not(score):
    _, _, _, plain = build(score=score)
    _, _, _, warm = build(score=score, temperature=0.05)
    spec, params, _, learned = build(score=score, temperature=0.05, temperature_learned=True)
    np.testing.assert_allclose(warm.retrieval_SD, plain.retrieval_SD / 0.05, rtol=1e-5)
    np.testing.assert_array_equal(warm.rank_SD, plain.rank_SD)
    np.testing.assert_allclose(learned.retrieval_SD, warm.retrieval_SD, rtol=1e-5)

    def total(log_temperature):
        heads = {**params["heads"], "log_temperature": log_temperature}
        return sessionrec.apply(spec, {**params, "heads": heads}, INPUTS, {})[1].retrieval_SD.sum()

    slope = jax.jit(jax.grad(total))(params["heads"]["log_temperature"])  # d/dt of exp(-t) x is -exp(-t) x
    assert slope == pytest.approx(-float(learned.retrieval_SD.sum()), rel=1e-4)


def test_only_a_learned_temperature_is_a_parameter():
    plain = jax.tree.structure(build()[1])
    assert jax.tree.structure(build(score="cosine", temperature=0.05)[1]) == plain
    assert set(build(temperature_learned=True)[1]["heads"]) - set(build()[1]["heads"]) == {"log_temperature"}


def test_only_under_cosine_does_retrieval_start_elsewhere_than_at_popularity():
    for score, zero in (("dot", True), ("cosine", False)):
        spec = Spec(replace(MODEL, score=score), IDS, (), 2, 3, 2)
        params = sessionrec.init(spec, jax.random.key(0), from_counts(np.arange(IDS), np.arange(IDS), {}, {}))
        queries = apply(spec, params, INPUTS, {})[1]
        assert np.all(queries.retrieval_SD == 0) == zero
        assert np.all(queries.rank_SD == 0)


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e-7, 1.0, 1e15])
def test_a_vector_of_any_length_has_a_gradient_that_is_a_number(scale):
    x_ND = scale * jnp.asarray([[3.0, 4.0]])
    gradient_ND = jax.jit(jax.grad(lambda x_ND: unit_length(x_ND)[0, 0]))(x_ND)
    assert np.all(np.isfinite(gradient_ND))
    np.testing.assert_allclose(unit_length(x_ND), [[0.6, 0.8]] if scale > 1e-6 else [[0.0, 0.0]], rtol=1e-5)
