"""The two losses: what they equal exactly, what never enters them, and that their gradients are numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sessionrec_jax.config import Loss
from sessionrec_jax.data.batches import CLICKED, CONTEXT, IGNORED
from sessionrec_jax.data.catalogue import from_counts
from sessionrec_jax.loss import (
    Negatives,
    Sums,
    Targets,
    proposal,
    rank_logits,
    rank_sums,
    retrieval_sums,
    sample_negatives,
    targets,
)

ITEMS, SLOTS, WIDTH = 12, 5, 4
# Two users in one row of five slots: sessions 0 1 2 and 3 4; slots 1, 2 and 4 are targets. Item 0 is padding.
SESSION_T = np.array([0, 0, 1, 1, 1, 2, 2, 3, 4, 4, 5, 5])
ITEM_T = np.array([3, 4, 5, 6, 7, 1, 2, 9, 8, 8, 0, 0])
FEEDBACK_T = np.array([CLICKED, IGNORED, CLICKED, CLICKED, IGNORED, CONTEXT, CLICKED, CLICKED, CLICKED, IGNORED, 0, 0])
TARGET_S = np.array([False, True, True, False, True])
CLICKED_PLACES, EXPOSED_PLACES = [2, 3, 6, 8], [2, 3, 4, 6, 8, 9]


@pytest.fixture
def world():
    """Scores of every item after every session, and what made them."""
    rng = np.random.default_rng(0)
    e_VD, queries_SD = rng.normal(size=(ITEMS + 1, WIDTH)), rng.normal(size=(SLOTS, WIDTH))
    return {
        "e_VD": jnp.asarray(e_VD, jnp.float32),
        "queries_SD": jnp.asarray(queries_SD, jnp.float32),
        "item_bias_V": jnp.asarray(rng.normal(size=ITEMS + 1), jnp.float32),
    }


@pytest.fixture
def wanted() -> Targets:
    return targets(*map(jnp.asarray, (FEEDBACK_T, SESSION_T, TARGET_S)))


@pytest.fixture
def catalogue():
    clicks_V = np.arange(ITEMS + 1) ** 2
    return from_counts(clicks_V, 3 * clicks_V, {}, {})


def uniform() -> jax.Array:
    return jnp.full(ITEMS + 1, -np.log(ITEMS)).at[0].set(-jnp.inf)


def negatives(items, log_weight) -> Negatives:
    return Negatives(jnp.asarray(items), jnp.broadcast_to(jnp.asarray(log_weight, jnp.float32), len(items)))


def every_item(times: int = 1) -> Negatives:
    """Each item drawn `times` times under the uniform proposal."""
    return negatives(np.arange(1, ITEMS + 1), np.log(times * ITEMS))


def retrieval(world, wanted, drawn: Negatives, other_clicks: str = "masked", log_q_V=None, item_T=ITEM_T):
    item_T, e_VD = jnp.asarray(item_T), world["e_VD"]
    return retrieval_sums(
        Loss(other_clicks=other_clicks),
        world["queries_SD"],
        e_VD[item_T],
        item_T,
        wanted,
        world["item_bias_V"],
        uniform() if log_q_V is None else log_q_V,
        drawn,
        e_VD[jnp.minimum(drawn.item_N, ITEMS)],
    )


def log_softmax(world) -> np.ndarray:
    """Over the whole catalogue, by session slot."""
    score_SV = (world["queries_SD"] @ world["e_VD"].T + world["item_bias_V"])[:, 1:]
    return np.concatenate([np.full((SLOTS, 1), np.nan), jax.nn.log_softmax(score_SV)], axis=1)


def only(wanted: Targets, places: list[int]) -> Targets:
    """The targets with these clicked items and no other."""
    return wanted._replace(clicked_T=jnp.zeros_like(wanted.clicked_T).at[jnp.asarray(places)].set(True))


# What is scored.


def test_labels_are_the_clicks_of_target_sessions_and_terms_the_clicked_and_ignored(wanted):
    assert np.flatnonzero(wanted.clicked_T).tolist() == CLICKED_PLACES
    assert np.flatnonzero(wanted.exposed_T).tolist() == EXPOSED_PLACES
    assert np.array_equal(wanted.query_T[jnp.asarray(EXPOSED_PLACES)], SESSION_T[EXPOSED_PLACES] - 1)


def test_counts_are_the_numbers_of_terms(world, wanted):
    assert retrieval(world, wanted, every_item())[1] == len(CLICKED_PLACES)
    assert rank_sums(jnp.zeros(len(ITEM_T)), wanted)[1] == len(EXPOSED_PLACES)


# Retrieval: sampled against full softmax.


@pytest.mark.parametrize("place", CLICKED_PLACES)
def test_a_single_click_against_every_item_is_the_full_softmax(world, wanted, place):
    nats, _ = retrieval(world, only(wanted, [place]), every_item())
    assert -nats == pytest.approx(log_softmax(world)[SESSION_T[place] - 1, ITEM_T[place]], rel=1e-5)


@pytest.mark.parametrize("times", [1, 7])
def test_counted_clicks_against_every_item_are_the_full_softmax_with_the_label_once_more(world, wanted, times):
    """With the label's probability p and each item drawn `times` times, a term is -log p / (p + times)."""
    nats, _ = retrieval(world, wanted, every_item(times), "counted")
    p_N = np.exp(log_softmax(world)[SESSION_T[CLICKED_PLACES] - 1, ITEM_T[CLICKED_PLACES]])
    assert nats == pytest.approx(-np.log(p_N / (p_N + times)).sum(), rel=1e-5)


def test_masked_clicks_against_every_item_are_a_softmax_without_the_sessions_other_clicks(world, wanted):
    nats, _ = retrieval(world, wanted, every_item())
    p_SV = np.exp(log_softmax(world))
    others = {2: 6, 3: 5}  # the items that are clicked beside the one at this place
    terms = [(p_SV[SESSION_T[t] - 1, ITEM_T[t]], p_SV[SESSION_T[t] - 1, others[t]] if t in others else 0.0)
             for t in CLICKED_PLACES]  # fmt: skip
    assert nats == pytest.approx(sum(-np.log(p / (1 - other)) for p, other in terms), rel=1e-5)


def test_log_q_undoes_the_proposal(world, wanted, catalogue):
    """Under any proposal, with each item as often as the proposal expects: the same as under the uniform one."""
    log_q_V = jnp.asarray(proposal(Loss(negatives_uniform=0.2), catalogue).log_q_V)
    draws = 1_000
    drawn = negatives(np.arange(1, ITEMS + 1), np.log(draws))  # times / Q = draws for each
    nats, _ = retrieval(world, wanted, drawn, log_q_V=log_q_V)
    p_SV = np.exp(log_softmax(world))
    clicked_S = np.zeros(SLOTS)
    np.add.at(clicked_S, SESSION_T[CLICKED_PLACES] - 1, p_SV[SESSION_T[CLICKED_PLACES] - 1, ITEM_T[CLICKED_PLACES]])
    q_V = np.exp(log_q_V)
    terms = [(p_SV[SESSION_T[t] - 1, ITEM_T[t]] / q_V[ITEM_T[t]], clicked_S[SESSION_T[t] - 1]) for t in CLICKED_PLACES]
    assert nats == pytest.approx(sum(-np.log(x / (x + draws * (1 - c))) for x, c in terms), rel=1e-5)


def test_merged_duplicates_count_as_duplicates(world, wanted):
    log_q, fill = np.log(ITEMS), ITEMS + 1
    merged = negatives([2, 5, 8, 9, fill, fill, fill], [*(log_q + np.log([1, 3, 1, 2])), *[-np.inf] * 3])

    def counted(items):
        return float(retrieval(world, only(wanted, [2]), negatives(items, log_q), "counted")[0])

    item_5 = only(wanted, [2])
    assert retrieval(world, item_5, merged, "counted")[0] == pytest.approx(counted([2, 5, 5, 5, 8, 9, 9]), rel=1e-5)
    assert retrieval(world, item_5, merged, "masked")[0] == pytest.approx(counted([2, 8, 9, 9]), rel=1e-5)


# What never enters.


def test_the_sessions_other_clicks_get_no_gradient_as_negatives(world, wanted):
    items = np.arange(1, ITEMS + 1)

    def nats(bias_of_negative_SN, mode):
        """The loss with the bias of each negative apart from that of the labels."""
        drawn = every_item()
        shifted = drawn._replace(log_weight_N=drawn.log_weight_N + bias_of_negative_SN)
        return retrieval(world, only(wanted, [2, 3]), shifted, mode)[0]

    masked_N = jax.grad(nats)(jnp.zeros(ITEMS), "masked")
    counted_N = jax.grad(nats)(jnp.zeros(ITEMS), "counted")
    is_click_N = np.isin(items, ITEM_T[[2, 3]])
    assert np.all(np.asarray(masked_N)[is_click_N] == 0)
    assert np.all(np.asarray(masked_N)[~is_click_N] > 0)
    assert np.all(np.asarray(counted_N) > 0)


def test_context_and_padding_and_history_are_no_labels(world, wanted):
    """Other items in the places that are not scored change neither loss."""
    other_T = ITEM_T.copy()
    unscored = np.setdiff1d(np.arange(len(ITEM_T)), EXPOSED_PLACES)
    other_T[unscored] = 11
    assert retrieval(world, wanted, every_item(), item_T=other_T)[0] == retrieval(world, wanted, every_item())[0]

    def rank(item_T):
        logit_T = rank_logits(world["queries_SD"], world["e_VD"][jnp.asarray(item_T)], wanted, jnp.asarray(0.3))
        return rank_sums(logit_T, wanted)[0]

    assert rank(other_T) == rank(ITEM_T)


def test_only_drawn_items_are_negatives(world, wanted):
    def nats(e_ND):
        drawn = negatives([1, 9, 10], np.log(ITEMS))
        args = (wanted, world["item_bias_V"], uniform(), drawn, e_ND)
        e_TD = world["e_VD"][jnp.asarray(ITEM_T)]
        return retrieval_sums(Loss(), world["queries_SD"], e_TD, jnp.asarray(ITEM_T), *args)[0]

    gradient_ND = jax.grad(nats)(world["e_VD"][jnp.asarray([1, 9, 10])])
    assert np.all(np.abs(gradient_ND).sum(axis=1) > 0)


# Negatives.


def test_the_proposal_is_a_distribution_with_a_uniform_floor(catalogue):
    for uniform_share in (0.25, 1.0):
        q = proposal(Loss(negatives_uniform=uniform_share), catalogue)
        q_V = np.exp(q.log_q_V)
        assert q_V[0] == 0
        assert q_V.sum() == pytest.approx(1, rel=1e-5)
        assert q_V[1:].min() >= uniform_share / ITEMS * (1 - 1e-5)
        assert np.allclose(np.diff(q.cumulative_V), q_V[1:], atol=1e-6)


def test_negatives_are_drawn_by_the_proposal_and_merged(catalogue):
    q = proposal(Loss(negatives_uniform=0.25), catalogue)
    draws = 20_000
    drawn = sample_negatives(jax.random.key(1), jax.tree.map(jnp.asarray, q), draws)
    item_N = np.asarray(drawn.item_N)
    real = item_N <= ITEMS
    assert np.all(np.diff(item_N[real]) > 0)  # distinct, in order, padding never
    assert item_N[real][0] >= 1
    times_N = np.exp(drawn.log_weight_N + q.log_q_V[np.minimum(item_N, ITEMS)])
    assert times_N.sum() == pytest.approx(draws, rel=1e-4)
    q_V = np.exp(q.log_q_V.astype(np.float64))
    spread_N = np.sqrt(draws * q_V * (1 - q_V))[item_N[real]]
    assert np.all(np.abs(times_N[real] - draws * q_V[item_N[real]]) < 5 * spread_N)
    assert np.all(np.asarray(drawn.log_weight_N)[~real] == -np.inf)


# Gradients and the rank loss.


@pytest.mark.parametrize("other_clicks", ["masked", "counted"])
@pytest.mark.parametrize("empty", [False, True])
def test_gradients_are_numbers_and_zero_without_targets(world, wanted, other_clicks, empty):
    if empty:
        wanted = targets(jnp.asarray(FEEDBACK_T), jnp.asarray(SESSION_T), jnp.zeros(SLOTS, bool))

    def objective(world):
        drawn = negatives([5, 6, ITEMS + 1], [1.0, 1.0, -np.inf])  # for slot 0 every negative is masked
        logit_T = rank_logits(world["queries_SD"], world["e_VD"][jnp.asarray(ITEM_T)], wanted, jnp.asarray(0.0))
        return Sums(*retrieval(world, wanted, drawn, other_clicks), *rank_sums(logit_T, wanted)).objective(1.0)

    value, gradient = jax.value_and_grad(objective)(world)
    leaves = jax.tree.leaves((value, gradient))
    assert all(np.all(np.isfinite(leaf)) for leaf in leaves)
    assert any(np.any(leaf != 0) for leaf in leaves) != empty


def test_rank_loss_is_binary_cross_entropy_over_exposures(wanted):
    logit_T = np.random.default_rng(3).normal(size=len(ITEM_T)).astype(np.float32)
    p_E = 1 / (1 + np.exp(-logit_T[EXPOSED_PLACES].astype(np.float64)))
    clicked_E = FEEDBACK_T[EXPOSED_PLACES] == CLICKED
    nats, _ = rank_sums(jnp.asarray(logit_T), wanted)
    assert nats == pytest.approx(-np.log(np.where(clicked_E, p_E, 1 - p_E)).sum(), rel=1e-5)


def test_the_objective_weighs_means_not_sums():
    sums = Sums(*map(jnp.asarray, (6.0, 3.0, 5.0, 10.0)))
    assert sums.objective(0.5) == pytest.approx(6 / 3 + 0.5 * 5 / 10)
    assert jax.tree.map(lambda x: 2 * x, sums).objective(0.5) == pytest.approx(float(sums.objective(0.5)))
