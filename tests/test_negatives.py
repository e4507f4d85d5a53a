"""Sampled negatives: each proposal is a distribution, the draws follow it, and they estimate the partition function."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sessionrec_jax.config.settings import Loss, Mesh
from sessionrec_jax.data.catalogue import from_counts
from sessionrec_jax.devices.mesh import make_mesh, over_batch
from sessionrec_jax.loss.negatives import Negatives, draw_negatives, item_of, proposal, sample_in_batch, ticketed

ITEMS = 12
PLACES = ("mixed", "uniform", "log_uniform", "in_batch")


@pytest.fixture
def catalogue():
    clicks_V = np.append(0, np.random.default_rng(4).permutation(ITEMS) ** 2)
    return from_counts(clicks_V, 3 * clicks_V, {}, {})


@pytest.fixture
def batch(catalogue):
    """Returns items and clicks [1, T]; the clicked items have exactly the shares of the proposal's popularity,
    times 997.
    """
    clicks_V = np.round(997 * np.exp(catalogue.log_popularity_V)).astype(int)
    clicked_T = np.repeat(np.arange(ITEMS + 1), clicks_V)
    item_T = np.random.default_rng(5).permutation(np.append(clicked_T, -clicked_T[:160]))  # those below 0: not clicked
    return jnp.asarray(np.abs(item_T)[None]), jnp.asarray(item_T[None] > 0)


@pytest.mark.parametrize("place", PLACES)
def test_a_proposal_is_a_distribution_over_all_items(catalogue, place):
    q = proposal(Loss(negatives_from=place), catalogue)
    q_V = np.exp(q.log_q_V)
    assert q_V[0] == 0
    assert np.all(q_V[1:] > 0)
    assert q_V.sum() == pytest.approx(1, rel=1e-5)


def assert_log_q_is_what_is_drawn(q, checked: np.ndarray) -> np.ndarray:
    """Asserts that items share all 2^32 tickets, each at least one; `checked` ones are drawn by theirs, from the first
    to the last. Returns the tickets of every item."""
    first_V = q.first_V[1:].astype(np.int64)
    tickets_V = np.diff(first_V, append=2**32)
    assert first_V[0] == 0
    assert tickets_V.min() >= 1
    assert q.log_q_V[0] == -np.inf
    assert np.abs(2.0**32 * np.exp(q.log_q_V[1:].astype(np.float64)) / tickets_V - 1).max() < 2e-6
    for ticket_V in (first_V, first_V + tickets_V - 1):
        ticket_N = jnp.asarray(ticket_V[checked - 1].astype(np.uint32))
        np.testing.assert_array_equal(jax.jit(item_of)(q, ticket_N), checked)
    return tickets_V


@pytest.mark.parametrize("weight_V", [[0.0, 1], [0.0, 3, 1, 1e-30, 2, 1e-30], [0.0, 1e-30, 1e30]], ids=len)
def test_log_q_counts_the_tickets_of_an_item(weight_V):
    weight_V = np.array(weight_V)
    tickets_V = assert_log_q_is_what_is_drawn(ticketed(weight_V), np.arange(1, len(weight_V)))
    np.testing.assert_allclose(tickets_V / 2**32, weight_V[1:] / weight_V.sum(), atol=len(weight_V) / 2**32)


def test_ten_million_items_are_drawn_as_log_q_says():
    items = 10**7
    weight_V = np.append(0.0, 1 + 100_000 / np.arange(1, items + 1))
    checked = np.append([1, items], np.random.default_rng(0).integers(1, items + 1, 20_000))
    tickets_V = assert_log_q_is_what_is_drawn(ticketed(weight_V), checked)
    assert np.abs(tickets_V / weight_V[1:] * (weight_V.sum() / 2**32) - 1).max() < 0.02


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_the_mixed_proposal_has_a_uniform_floor(catalogue, share):
    q_V = np.exp(proposal(Loss(negatives_uniform=share), catalogue).log_q_V)
    assert q_V[1:].min() >= share / ITEMS * (1 - 1e-5)


def test_the_log_uniform_proposal_goes_by_popularity_and_ties_by_id():
    clicks_V = np.array([0, 5, 9, 5, 1])
    q_V = np.exp(proposal(Loss(negatives_from="log_uniform"), from_counts(clicks_V, clicks_V, {}, {})).log_q_V)
    rank_V = np.array([1, 0, 2, 3])
    np.testing.assert_allclose(q_V[1:], np.log((rank_V + 2) / (rank_V + 1)) / np.log(5), rtol=1e-5)


@pytest.mark.parametrize("place", PLACES)
def test_negatives_are_drawn_by_the_proposal_and_merged(catalogue, batch, place):
    draws = 20_000
    config = Loss(negatives_from=place, negatives=draws)
    q = proposal(config, catalogue)
    drawn = draw_negatives(config, jax.random.key(1), jax.tree.map(jnp.asarray, q), *batch)
    item_N, times_N = np.asarray(drawn.item_N), np.asarray(drawn.times_N)
    real = item_N <= ITEMS
    assert np.all(np.diff(item_N[real]) > 0)  # distinct, in order, padding never
    assert item_N[real][0] >= 1
    assert times_N.sum() == draws
    assert np.all(times_N[~real] == 0)
    q_N = np.exp(q.log_q_V.astype(np.float64))[item_N[real]]
    clicks_differ = 2 * draws / 997 if place == "in_batch" else 0  # by rounding
    assert np.all(np.abs(times_N[real] - draws * q_N) < 5 * np.sqrt(draws * q_N * (1 - q_N)) + clicks_differ)


@pytest.mark.parametrize("place", PLACES)
def test_corrected_negatives_estimate_the_partition_function(catalogue, batch, place):
    """mean over draws of exp(s - log Q) = sum over items of exp(s), over many keys within four standard errors."""
    config = Loss(negatives_from=place, negatives=16)
    q = jax.tree.map(jnp.asarray, proposal(config, catalogue))
    item_GT, clicked_GT = batch
    score_V = jnp.asarray(np.random.default_rng(6).normal(size=ITEMS + 1), jnp.float32)
    log_q_V = q.log_q_V
    if place == "in_batch":  # the share in training approximates the share in the batch; here it is exact
        log_q_V = jnp.log(jnp.bincount(item_GT[clicked_GT], length=ITEMS + 1) / clicked_GT.sum())

    @jax.jit
    @jax.vmap
    def estimate(key):
        drawn = draw_negatives(config, key, q, item_GT, clicked_GT)
        weight_N = drawn.times_N / config.negatives
        return jnp.sum(weight_N * jnp.exp((score_V - log_q_V).at[drawn.item_N].get(mode="fill", fill_value=0.0)))

    estimates = np.asarray(estimate(jax.random.split(jax.random.key(7), 4_000)), np.float64)
    truth = np.exp(np.asarray(score_V[1:], np.float64)).sum()
    assert abs(estimates.mean() - truth) < 4 * estimates.std() / np.sqrt(len(estimates))


# From the batch.


@functools.cache
def split_batch() -> tuple[np.ndarray, np.ndarray]:
    """Makes eight shards, each padded at its end by its own amount, one of them without a click."""
    rng = np.random.default_rng(8)
    item_GT, clicked_GT = rng.integers(1, ITEMS, (8, 10)), rng.random((8, 10)) < 0.4
    for shard in range(8):
        item_GT[shard, 10 - shard :] = 0
        clicked_GT[shard, 10 - shard :] = False
    clicked_GT[2] = False
    return item_GT, clicked_GT


@functools.partial(jax.jit, static_argnums=2)
def in_batch(item_GT, clicked_GT, draws: int = 400) -> Negatives:
    return sample_in_batch(
        jax.random.key(3), jnp.asarray(item_GT), jnp.asarray(clicked_GT), negatives=draws, ids=ITEMS + 1
    )


def test_only_clicked_items_are_drawn_and_all_of_them():
    item_GT, clicked_GT = split_batch()
    drawn = in_batch(item_GT, clicked_GT)
    items = np.asarray(drawn.item_N)[np.asarray(drawn.times_N) > 0]
    assert items.tolist() == np.unique(item_GT[clicked_GT]).tolist()
    assert drawn.times_N.sum() == 400


def test_one_shard_draws_what_eight_draw():
    """Returns the same clicks in the same order as one shard, with all padding at its end."""
    item_GT, clicked_GT = split_batch()
    packed = item_GT > 0
    padding = np.zeros(np.sum(~packed), int)
    item_1T, clicked_1T = np.append(item_GT[packed], padding)[None], np.append(clicked_GT[packed], padding > 0)[None]
    eight = in_batch(*jax.device_put((item_GT, clicked_GT), over_batch(make_mesh(Mesh(data=8)))))
    one = in_batch(item_1T, clicked_1T)
    np.testing.assert_array_equal(one.item_N, eight.item_N)
    np.testing.assert_array_equal(one.times_N, eight.times_N)


def test_a_batch_without_a_click_has_no_negatives():
    item_GT, clicked_GT = split_batch()
    drawn = in_batch(item_GT, np.zeros_like(clicked_GT))
    assert np.all(drawn.times_N == 0)
    assert np.all(drawn.item_N == ITEMS + 1)
