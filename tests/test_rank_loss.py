"""Compares the rank losses with their definitions, term by term, on random ragged sessions, and eight devices with
one.
"""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sessionrec_jax.config.settings import Loss
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.batches import shape_of, train_batches, train_catalogue
from sessionrec_jax.data.codes import CLICKED, CONTEXT, IGNORED
from sessionrec_jax.devices.mesh import make_mesh, over_batch
from sessionrec_jax.devices.placement import put_batch, put_proposal, put_replicated, put_side
from sessionrec_jax.loss.negatives import proposal
from sessionrec_jax.loss.rank import rank_loss_sums
from sessionrec_jax.loss.targets import Targets, targets
from sessionrec_jax.model.spec_of_log import spec_of
from sessionrec_jax.training.step import FixedArrays, Scalars, initial_state, make_step

RANKS = ("pointwise", "pairwise", "listwise")
SLOTS, T = 12, 40


class Ragged:
    """Makes sessions of random lengths in a packed shard: context, ignored and clicked items, targets or not,
    padding.
    """

    def __init__(self, seed: int):
        rng = np.random.default_rng(seed)
        length_S = rng.multinomial(T - 6, rng.dirichlet(np.ones(SLOTS)))
        self.session_T = np.append(np.repeat(np.arange(SLOTS), length_S), np.full(6, SLOTS))
        self.feedback_T = rng.choice([IGNORED, IGNORED, CLICKED, CLICKED, CONTEXT], T)
        self.feedback_T[-6:] = 0
        self.target_S = (rng.random(SLOTS) < 0.7) & (np.arange(SLOTS) > 0)
        self.logit_T = 2 * rng.normal(size=T)

    def wanted(self) -> Targets:
        return targets(*map(jnp.asarray, (self.feedback_T, self.session_T, self.target_S)))

    def sessions(self):
        """Yields the places of the clicked and of the ignored items of each target session."""
        for session in np.flatnonzero(self.target_S):
            inside = self.session_T == session
            yield [np.flatnonzero(inside & (self.feedback_T == kind)) for kind in (CLICKED, IGNORED)]


def by_definition(rank: str, ragged: Ragged, logit_T: np.ndarray) -> tuple[float, int]:
    nats, terms = 0.0, 0
    for clicked, ignored in ragged.sessions():
        if rank == "pointwise":
            own = np.append(np.logaddexp(0, -logit_T[clicked]), np.logaddexp(0, logit_T[ignored]))
        elif rank == "pairwise":
            own = [np.log1p(np.exp(logit_T[i] - logit_T[c])) for c, i in itertools.product(clicked, ignored)]
        elif len(ignored):
            own = [-np.log(np.exp(logit_T[c]) / np.exp(logit_T[[c, *ignored]]).sum()) for c in clicked]
        else:
            own = []
        nats, terms = nats + np.sum(own), terms + len(own)
    return float(nats), terms


@functools.partial(jax.jit, static_argnums=0)
def nats_terms_and_gradient(rank: str, logit_T, wanted: Targets, session_T):
    value, gradient_T = jax.value_and_grad(
        lambda logit_T: rank_loss_sums(Loss(rank=rank), logit_T, wanted, session_T), has_aux=True
    )(logit_T)
    return *value, gradient_T


def of(rank: str, ragged: Ragged, logit_T=None):
    logit_T = ragged.logit_T if logit_T is None else logit_T
    args = (jnp.asarray(logit_T, jnp.float32), ragged.wanted(), jnp.asarray(ragged.session_T))
    return jax.device_get(nats_terms_and_gradient(rank, *args))


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("seed", range(5))
def test_sums_and_gradients_are_those_of_the_definition(rank, seed):
    ragged = Ragged(seed)
    nats, terms, gradient_T = of(rank, ragged)
    expected, expected_terms = by_definition(rank, ragged, ragged.logit_T)
    assert terms == expected_terms
    assert nats == pytest.approx(expected, rel=1e-5)
    step = 1e-5 * np.eye(T)
    slope_T = [
        (by_definition(rank, ragged, ragged.logit_T + h_T)[0] - by_definition(rank, ragged, ragged.logit_T - h_T)[0])
        / 2e-5
        for h_T in step
    ]
    np.testing.assert_allclose(gradient_T, slope_T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rank", RANKS)
def test_context_padding_history_and_other_sessions_never_enter(rank):
    ragged = Ragged(0)
    nats, _, gradient_T = of(rank, ragged)
    exposed_T = np.asarray(ragged.wanted().exposed_T)
    assert np.all(gradient_T[~exposed_T] == 0)
    assert of(rank, ragged, np.where(exposed_T, ragged.logit_T, 50.0))[0] == nats
    moved_T = ragged.logit_T + 3.0 * (ragged.session_T == ragged.session_T[exposed_T][0])  # one session, as a whole
    if rank != "pointwise":
        assert of(rank, ragged, moved_T)[0] == pytest.approx(nats, rel=1e-5)


@pytest.mark.parametrize("rank", ["pairwise", "listwise"])
@pytest.mark.parametrize("kind", [CLICKED, IGNORED, CONTEXT])
def test_sessions_of_one_kind_have_no_terms_and_no_gradient(rank, kind):
    ragged = Ragged(1)
    ragged.feedback_T[:-6] = kind
    nats, terms, gradient_T = of(rank, ragged)
    assert (nats, terms) == (0, 0)
    assert np.all(gradient_T == 0)


@pytest.mark.parametrize("rank", RANKS)
def test_large_scores_stay_finite(rank):
    ragged = Ragged(2)
    nats, _, gradient_T = of(rank, ragged, 1e4 * ragged.logit_T)
    assert np.isfinite(nats)
    assert np.all(np.isfinite(gradient_T))


@pytest.mark.parametrize("rank", RANKS)
def test_a_duplicate_exposure_is_a_term_of_its_own(rank):
    """Makes one session: a click against one ignored item that was shown `times` times with one score."""

    def nats(times: int) -> float:
        ragged = Ragged(0)
        ragged.session_T = np.append(np.repeat([0, 1], [1, 1 + times]), np.full(T - 2 - times, SLOTS))
        ragged.feedback_T = np.append([0, CLICKED], np.zeros(T - 2, int))
        ragged.target_S = np.arange(SLOTS) == 1
        return float(of(rank, ragged, np.append([0.0, 0.5], np.full(T - 2, 0.2)))[0])

    if rank == "listwise":
        assert nats(3) == pytest.approx(np.log1p(3 * np.exp(-0.3)), rel=1e-5)
    else:
        assert nats(3) - nats(2) == pytest.approx(nats(2) - nats(1), rel=1e-5)
        assert nats(2) > nats(1)


@pytest.mark.parametrize("rank", RANKS)
def test_shards_under_vmap_and_a_mesh_have_the_sums_of_each(rank, config):
    shards = [Ragged(seed) for seed in range(8)]
    arrays = [np.stack([getattr(x, name) for x in shards]) for name in ("feedback_T", "session_T", "target_S")]
    logit_GT = np.stack([x.logit_T for x in shards]).astype(np.float32)
    mesh = make_mesh(replace(config, {"mesh.data": 8}).mesh)

    @jax.jit
    def summed(logit_GT, feedback_GT, session_GT, target_GS):
        def nats(logit_GT):
            def shard(logit_T, feedback_T, session_T, target_S):
                wanted = targets(feedback_T, session_T, target_S)
                return rank_loss_sums(Loss(rank=rank), logit_T, wanted, session_T)

            nats_G, terms_G = jax.vmap(shard)(logit_GT, feedback_GT, session_GT, target_GS)
            return nats_G.sum(), terms_G.sum()

        return jax.value_and_grad(nats, has_aux=True)(logit_GT)

    (nats, terms), gradient_GT = jax.device_get(summed(*jax.device_put((logit_GT, *arrays), over_batch(mesh))))
    alone = [of(rank, x) for x in shards]
    assert terms == sum(x[1] for x in alone)
    assert nats == pytest.approx(sum(float(x[0]) for x in alone), rel=1e-5)
    np.testing.assert_allclose(gradient_GT, [x[2] for x in alone], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_step_of_training_is_the_same_on_one_device_and_on_eight(config, log):
    """Uses the two forms that loop: chunks of the catalogue, and distances within a session."""
    results = []
    for devices in (1, 8):
        forms = {"loss.retrieval": "full_softmax", "loss.rank": "pairwise", "model.layers": 0}
        here = replace(config, {**forms, "mesh.data": devices})
        mesh, catalogue = make_mesh(here.mesh), train_catalogue(here, log)
        spec = spec_of(here, log, catalogue)
        batch = next(train_batches(here, log, shape_of(here, devices)))
        scalars = Scalars(np.float32(1e-2), np.float32(0))
        side = put_side(catalogue.side, spec.rows, mesh)
        q, scalars = put_proposal(proposal(here.loss, catalogue), spec.rows, mesh), put_replicated(scalars, mesh)
        state, key = initial_state(here, spec, catalogue, mesh), put_replicated(np.zeros(2, np.uint32), mesh)
        step = make_step(spec, here.loss, here.optim, mesh)
        fixed, key = FixedArrays(side, q), jax.random.wrap_key_data(key)
        state, sums = step(state, put_batch(batch, mesh), fixed, key=key, scalars=scalars)
        results.append(jax.device_get((sums._asdict(), state.params)))
    assert results[0][0]["rank_terms"] > 0
    for one, eight in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(eight, one, rtol=1e-3, atol=1e-5)
