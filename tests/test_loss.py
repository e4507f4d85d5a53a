"""The retrieval losses and their sum with the rank loss: what they equal exactly, what never enters them, and that
their gradients are numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from grid import mostly_slow

from sessionrec_jax.config.settings import Loss
from sessionrec_jax.data.catalogue import from_counts
from sessionrec_jax.data.codes import CLICKED, CONTEXT, IGNORED
from sessionrec_jax.loss.negatives import Negatives, proposal
from sessionrec_jax.loss.retrieval import (
    CatalogueRows,
    SampledItems,
    Scorer,
    ShardItems,
    bce_sums,
    catalogue_log_sum,
    full_softmax_sums,
    sampled_softmax_sums,
)
from sessionrec_jax.loss.session import Sums, Terms, session_loss, terms_of
from sessionrec_jax.loss.targets import Targets, targets
from sessionrec_jax.model.spec import Queries

ITEMS, SLOTS, WIDTH = 12, 5, 4
# Two users in one row of five slots: sessions 0 1 2 and 3 4; slots 1, 2 and 4 are targets. Item 0 is padding.
SESSION_T = np.array([0, 0, 1, 1, 1, 2, 2, 3, 4, 4, 5, 5])
ITEM_T = np.array([3, 4, 5, 6, 7, 1, 2, 9, 8, 8, 0, 0])
FEEDBACK_T = np.array([CLICKED, IGNORED, CLICKED, CLICKED, IGNORED, CONTEXT, CLICKED, CLICKED, CLICKED, IGNORED, 0, 0])
TARGET_S = np.array([False, True, True, False, True])
CLICKED_PLACES, EXPOSED_PLACES = [2, 3, 6, 8], [2, 3, 4, 6, 8, 9]
FORMS = [("sampled_softmax", "pointwise"), ("full_softmax", "pairwise"), ("bce", "listwise")]


@pytest.fixture
def world():
    """Returns the scores of every item after every session, and the inputs that made them."""
    rng = np.random.default_rng(0)
    e_VD, queries_SD, rank_SD = (rng.normal(size=(rows, WIDTH)) for rows in (ITEMS + 1, SLOTS, SLOTS))
    return {
        "e_VD": jnp.asarray(e_VD, jnp.float32),
        "queries_SD": jnp.asarray(queries_SD, jnp.float32),
        "rank_SD": jnp.asarray(rank_SD, jnp.float32),
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


def negatives(items, times=1.0) -> Negatives:
    return Negatives(jnp.asarray(items), jnp.broadcast_to(jnp.asarray(times, jnp.float32), len(items)))


def every_item(times=1.0) -> Negatives:
    return negatives(np.arange(1, ITEMS + 1), times)


def retrieval(
    world,
    wanted,
    drawn: Negatives,
    other_clicks: str = "masked",
    log_q_V=None,
    item_T=ITEM_T,
    sums=sampled_softmax_sums,
    **settings,
):
    item_T, e_VD = jnp.asarray(item_T), world["e_VD"]
    scorer = Scorer(world["queries_SD"], world["item_bias_V"])
    sampled = SampledItems(drawn, e_VD[jnp.minimum(drawn.item_N, ITEMS)], uniform() if log_q_V is None else log_q_V)
    config = Loss(other_clicks=other_clicks, **settings)
    return sums(config, scorer, ShardItems(item_T, e_VD[item_T], wanted), sampled)


def full(world, wanted, other_clicks: str, chunk_items: int = 5, item_T=ITEM_T):
    item_T, e_VD = jnp.asarray(item_T), world["e_VD"]
    config, bias_V = Loss(other_clicks=other_clicks), world["item_bias_V"]
    rows = CatalogueRows(lambda item_N: e_VD[item_N], bias_V, 0, len(bias_V))
    log_sum_S = catalogue_log_sum(config, world["queries_SD"], item_T, wanted, rows, chunk_items)
    scorer = Scorer(world["queries_SD"], bias_V)
    return full_softmax_sums(config, scorer, ShardItems(item_T, e_VD[item_T], wanted), log_sum_S)


def log_softmax(world) -> np.ndarray:
    """Computes the loss over the whole catalogue, by session slot."""
    score_SV = (world["queries_SD"] @ world["e_VD"].T + world["item_bias_V"])[:, 1:]
    return np.concatenate([np.full((SLOTS, 1), np.nan), jax.nn.log_softmax(score_SV)], axis=1)


def only(wanted: Targets, places: list[int]) -> Targets:
    """Returns the targets with these clicked items only."""
    return wanted._replace(clicked_T=jnp.zeros_like(wanted.clicked_T).at[jnp.asarray(places)].set(True))


# The scored places.


def test_labels_are_the_clicks_of_target_sessions_and_terms_the_clicked_and_ignored(wanted):
    assert np.flatnonzero(wanted.clicked_T).tolist() == CLICKED_PLACES
    assert np.flatnonzero(wanted.exposed_T).tolist() == EXPOSED_PLACES
    assert np.array_equal(wanted.query_T[jnp.asarray(EXPOSED_PLACES)], SESSION_T[EXPOSED_PLACES] - 1)


def test_counts_are_the_numbers_of_terms(world, wanted):
    assert retrieval(world, wanted, every_item())[1] == len(CLICKED_PLACES)
    assert retrieval(world, wanted, every_item(), sums=bce_sums)[1] == len(CLICKED_PLACES)
    assert full(world, wanted, "counted")[1] == len(CLICKED_PLACES)


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
    others = {2: 6, 3: 5}  # the other clicked item of the session at this place
    terms = [(p_SV[SESSION_T[t] - 1, ITEM_T[t]], p_SV[SESSION_T[t] - 1, others[t]] if t in others else 0.0)
             for t in CLICKED_PLACES]  # fmt: skip
    assert nats == pytest.approx(sum(-np.log(p / (1 - other)) for p, other in terms), rel=1e-5)


def test_log_q_undoes_the_proposal(world, wanted, catalogue):
    """Under any proposal the loss, with each item drawn as often as expected, equals that of the uniform one."""
    log_q_V = jnp.asarray(proposal(Loss(negatives_uniform=0.2), catalogue).log_q_V)
    draws = 1_000
    drawn = every_item(draws * np.exp(log_q_V[1:]))
    nats, _ = retrieval(world, wanted, drawn, log_q_V=log_q_V)
    p_SV = np.exp(log_softmax(world))
    clicked_S = np.zeros(SLOTS)
    np.add.at(clicked_S, SESSION_T[CLICKED_PLACES] - 1, p_SV[SESSION_T[CLICKED_PLACES] - 1, ITEM_T[CLICKED_PLACES]])
    q_V = np.exp(log_q_V)
    terms = [(p_SV[SESSION_T[t] - 1, ITEM_T[t]] / q_V[ITEM_T[t]], clicked_S[SESSION_T[t] - 1]) for t in CLICKED_PLACES]
    assert nats == pytest.approx(sum(-np.log(x / (x + draws * (1 - c))) for x, c in terms), rel=1e-5)


@pytest.mark.parametrize("sums", [sampled_softmax_sums, bce_sums])
def test_merged_duplicates_count_as_duplicates(world, wanted, sums):
    fill = ITEMS + 1
    merged = negatives([2, 5, 8, 9, fill, fill, fill], [1, 3, 1, 2, 0, 0, 0])
    item_5 = only(wanted, [2])

    def nats(drawn, other_clicks):
        return float(retrieval(world, item_5, drawn, other_clicks, sums=sums)[0])

    assert nats(merged, "counted") == pytest.approx(nats(negatives([2, 5, 5, 5, 8, 9, 9]), "counted"), rel=1e-5)
    assert nats(merged, "masked") == pytest.approx(nats(negatives([2, 8, 9, 9]), "counted"), rel=1e-5)


def test_without_log_q_the_scores_are_plain(world, wanted):
    """Any proposal gives the loss of the uniform one, whose correction is the same for all items."""
    log_q_V = jnp.asarray(np.random.default_rng(2).normal(size=ITEMS + 1), jnp.float32)
    drawn = negatives([1, 4, 9], [1, 2, 3])
    plain, _ = retrieval(world, wanted, drawn, log_q_V=log_q_V, log_q=False)
    assert plain == pytest.approx(float(retrieval(world, wanted, drawn)[0]), rel=1e-5)


# Retrieval: the full softmax.


@pytest.mark.parametrize("chunk_items", [1, 5, 100])
def test_the_full_softmax_is_the_dense_one_whatever_the_chunks(world, wanted, chunk_items):
    """Compares values, and gradients by every query, embedding and bias."""

    def dense(world):
        score_SV = (world["queries_SD"] @ world["e_VD"].T + world["item_bias_V"])[:, 1:]
        log_p_SV = jax.nn.log_softmax(score_SV, axis=1)
        return -log_p_SV[SESSION_T[CLICKED_PLACES] - 1, ITEM_T[CLICKED_PLACES] - 1].sum()

    nats, gradient = jax.value_and_grad(lambda world: full(world, wanted, "counted", chunk_items)[0])(world)
    expected, expected_gradient = jax.value_and_grad(dense)(world)
    assert nats == pytest.approx(float(expected), rel=1e-5)
    for name, leaf in expected_gradient.items():
        np.testing.assert_allclose(gradient[name], leaf, rtol=1e-4, atol=1e-6, err_msg=name)


def test_the_masked_full_softmax_is_the_sampled_one_with_every_item(world, wanted):
    def sampled(world):
        return retrieval(world, wanted, every_item())[0]

    nats, gradient = jax.value_and_grad(lambda world: full(world, wanted, "masked")[0])(world)
    expected, expected_gradient = jax.value_and_grad(sampled)(world)
    assert nats == pytest.approx(float(expected), rel=1e-5)
    for name, leaf in expected_gradient.items():
        np.testing.assert_allclose(gradient[name], leaf, rtol=1e-4, atol=1e-6, err_msg=name)


def test_the_full_softmax_holds_no_array_of_sessions_times_the_catalogue():
    sessions, ids, width = 64, 4_097, 4

    def nats(e_VD, queries_SD):
        wanted = Targets(jnp.arange(sessions), jnp.ones(sessions, bool), jnp.ones(sessions, bool))
        item_T = jnp.arange(1, sessions + 1)
        rows = CatalogueRows(lambda item_N: e_VD[item_N], jnp.zeros(ids), 0, ids)
        log_sum_S = catalogue_log_sum(Loss(), queries_SD, item_T, wanted, rows, chunk_items=128)
        items = ShardItems(item_T, e_VD[item_T], wanted)
        return full_softmax_sums(Loss(), Scorer(queries_SD, rows.item_bias_R), items, log_sum_S)[0]

    shapes = (jax.ShapeDtypeStruct((ids, width), jnp.float32), jax.ShapeDtypeStruct((sessions, width), jnp.float32))
    compiled = jax.jit(jax.grad(nats, argnums=(0, 1))).lower(*shapes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * sessions * ids / 2


# Retrieval: the logistic losses.


@pytest.mark.parametrize("log_q", [True, False])
@pytest.mark.parametrize("other_clicks", ["masked", "counted"])
def test_bce_is_its_formula(world, wanted, catalogue, log_q, other_clicks):
    log_q_V = np.asarray(proposal(Loss(), catalogue).log_q_V, np.float64)
    drawn, n = {5: 3, 6: 1, 9: 2, 11: 2}, 8
    nats, _ = retrieval(
        world, wanted, negatives(list(drawn), list(drawn.values())), other_clicks, jnp.asarray(log_q_V, jnp.float32),
        sums=bce_sums, negatives=n, log_q=log_q,
    )  # fmt: skip
    score_SV = np.asarray(world["queries_SD"] @ world["e_VD"].T + world["item_bias_V"], np.float64)
    expected = 0.0
    for t in CLICKED_PLACES:
        d_V = score_SV[SESSION_T[t] - 1] - (np.log(n) + log_q_V if log_q else 0.0)
        own = {ITEM_T[u] for u in CLICKED_PLACES if SESSION_T[u] == SESSION_T[t]} if other_clicks == "masked" else set()
        noise = sum(times * np.logaddexp(0, d_V[j]) for j, times in drawn.items() if j not in own)
        expected += np.logaddexp(0, -d_V[ITEM_T[t]]) + (noise if log_q else noise / n)
    assert nats == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("n", [1, 50])
def test_the_optimum_of_nce_is_the_true_log_probability(n):
    """Makes one session with clicks as often as its law says, and draws as often as the proposal expects."""
    clicks_V = np.array([0, 1, 2, 5, 12])
    item_T, q_V = np.repeat(np.arange(5), clicks_V), np.array([0, 0.4, 0.3, 0.2, 0.1])
    T = len(item_T)
    wanted = Targets(jnp.zeros(T, int), jnp.ones(T, bool), jnp.ones(T, bool))
    drawn = negatives(np.arange(1, 5), n * q_V[1:])
    with np.errstate(divide="ignore"):
        log_q_V, truth_V = jnp.log(jnp.asarray(q_V, jnp.float32)), np.log(clicks_V / T)

    def gradient(bias_V):
        def nats(bias_V):
            zero_TD, config = jnp.zeros((T, 1)), Loss(negatives=n, other_clicks="counted")
            items = ShardItems(jnp.asarray(item_T), zero_TD, wanted)
            sampled = SampledItems(drawn, jnp.zeros((4, 1)), log_q_V)
            return bce_sums(config, Scorer(jnp.zeros((1, 1)), bias_V), items, sampled)[0]

        return np.asarray(jax.grad(nats)(jnp.asarray(bias_V, jnp.float32)))[1:]

    np.testing.assert_allclose(gradient(truth_V), 0, atol=1e-5)
    assert np.all(gradient(truth_V + 0.1) > 1e-3)  # it knows its normalisation
    assert np.all(gradient(truth_V - 0.1) < -1e-3)


# Inputs that never enter.


def test_the_sessions_other_clicks_get_no_gradient_as_negatives(world, wanted):
    items = np.arange(1, ITEMS + 1)

    def nats(bias_of_negative_N, mode):
        """Returns the loss with a bias for negatives that is separate from that of the labels."""
        return retrieval(world, only(wanted, [2, 3]), every_item(jnp.exp(bias_of_negative_N)), mode)[0]

    masked_N = jax.grad(nats)(jnp.zeros(ITEMS), "masked")
    counted_N = jax.grad(nats)(jnp.zeros(ITEMS), "counted")
    is_click_N = np.isin(items, ITEM_T[[2, 3]])
    assert np.all(np.asarray(masked_N)[is_click_N] == 0)
    assert np.all(np.asarray(masked_N)[~is_click_N] > 0)
    assert np.all(np.asarray(counted_N) > 0)


def test_context_and_padding_and_history_are_no_labels(world, wanted):
    """Other items in places that are not scored change no loss."""
    other_T = ITEM_T.copy()
    other_T[np.setdiff1d(np.arange(len(ITEM_T)), EXPOSED_PLACES)] = 11
    for mode in ("masked", "counted"):
        assert full(world, wanted, mode, item_T=other_T)[0] == full(world, wanted, mode)[0]
        for sums in (sampled_softmax_sums, bce_sums):
            before, after = (
                retrieval(world, wanted, every_item(), mode, item_T=item_T, sums=sums)[0]
                for item_T in (ITEM_T, other_T)
            )
            assert after == before


@pytest.mark.parametrize("sums", [sampled_softmax_sums, bce_sums])
def test_only_drawn_items_are_negatives(world, wanted, sums):
    def nats(e_ND):
        items = ShardItems(jnp.asarray(ITEM_T), world["e_VD"][jnp.asarray(ITEM_T)], wanted)
        sampled = SampledItems(negatives([1, 9, 10]), e_ND, uniform())
        return sums(Loss(), Scorer(world["queries_SD"], world["item_bias_V"]), items, sampled)[0]

    gradient_ND = jax.grad(nats)(world["e_VD"][jnp.asarray([1, 9, 10])])
    assert np.all(np.abs(gradient_ND).sum(axis=1) > 0)


# Both losses.


def both(config: Loss, world, wanted: Targets, drawn: Negatives) -> Sums:
    item_T, e_VD = jnp.asarray(ITEM_T), world["e_VD"]
    heads = {"item_bias": world["item_bias_V"], "rank_bias": jnp.asarray(0.3)}
    queries = Queries(world["queries_SD"], world["rank_SD"])
    e_ND = e_VD[jnp.minimum(drawn.item_N, ITEMS)]
    rows = CatalogueRows(lambda i: e_VD[i], heads["item_bias"], 0, ITEMS + 1)
    log_sum_S = catalogue_log_sum(config, queries.retrieval_SD, item_T, wanted, rows)
    items, sampled = ShardItems(item_T, e_VD[item_T], wanted), SampledItems(drawn, e_ND, uniform())
    return session_loss(config, queries, items, heads=heads, sampled=sampled, log_sum_S=log_sum_S)


@pytest.mark.parametrize("kinds", mostly_slow(FORMS, quick=[("full_softmax", "pairwise"), ("bce", "listwise")]))
@pytest.mark.parametrize("empty", [False, True])
def test_gradients_are_numbers_and_zero_without_targets(world, wanted, kinds, empty):
    if empty:
        wanted = targets(jnp.asarray(FEEDBACK_T), jnp.asarray(SESSION_T), jnp.zeros(SLOTS, bool))

    def objective(world):
        drawn = negatives([5, 6, ITEMS + 1], [1, 1, 0])  # for slot 0 every negative is masked
        return both(Loss(*kinds), world, wanted, drawn).objective(
            1.0, terms_of(Loss(*kinds), wanted, jnp.asarray(SESSION_T))
        )

    leaves = jax.tree.leaves(jax.value_and_grad(objective)(world))
    assert all(np.all(np.isfinite(leaf)) for leaf in leaves)
    assert any(np.any(leaf != 0) for leaf in leaves) != empty


@pytest.mark.parametrize("kinds", FORMS[:2])
def test_without_alpha_there_is_the_retrieval_loss_and_nothing_else(world, wanted, kinds):
    drawn = every_item()

    def objective(world, alpha: float, weight: float):
        config = Loss(*kinds, alpha=alpha)
        return both(config, world, wanted, drawn).objective(weight, terms_of(config, wanted, jnp.asarray(SESSION_T)))

    with_rank, without = jax.grad(objective)(world, 1.0, 0.0), jax.grad(objective)(world, 0.0, 0.0)
    for name, leaf in with_rank.items():
        np.testing.assert_array_equal(without[name], leaf)
    assert np.all(without["rank_SD"] == 0)
    assert np.any(jax.grad(objective)(world, 1.0, 1.0)["rank_SD"] != 0)
    sums = both(Loss(*kinds, alpha=0.0), world, wanted, drawn)
    assert (sums.rank_nats, sums.rank_terms) == (0, 0)


def test_the_objective_weighs_means_not_sums():
    sums = Sums(*map(jnp.asarray, (6.0, 3.0, 5.0, 10.0)))
    terms = Terms(sums.clicked_items, sums.rank_terms)
    assert sums.objective(0.5, terms) == pytest.approx(6 / 3 + 0.5 * 5 / 10)
    twice = jax.tree.map(lambda x: 2 * x, (sums, terms))
    assert twice[0].objective(0.5, twice[1]) == pytest.approx(float(sums.objective(0.5, terms)))
    assert sums.objective(0.5, twice[1]) == pytest.approx(float(sums.objective(0.5, terms)) / 2)


@pytest.mark.parametrize("kinds", FORMS)
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_the_numbers_of_terms_are_known_before_the_nats(world, wanted, kinds, alpha):
    config = Loss(*kinds, alpha=alpha)
    sums = both(config, world, wanted, every_item())
    assert terms_of(config, wanted, jnp.asarray(SESSION_T)) == (sums.clicked_items, sums.rank_terms)
