"""Each session encoder equals a numpy version, reads one session only and in any order, and costs what it states."""

from __future__ import annotations

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from grid import mostly_slow
from products import multiplications

from sessionrec_jax.config.settings import Model
from sessionrec_jax.data.codes import CLICKED, IGNORED
from sessionrec_jax.model.segment import LEAST_BLOCK
from sessionrec_jax.model.session_encoder import SessionEncoderModule
from sessionrec_jax.registry import SESSION_ENCODERS

KINDS, WIDTH, HEADS, SESSIONS, ITEMS = 3, 8, 2, 7, 24
LENGTHS = np.array([3, 1, 0, 9, 2, 0, 5])
SESSION_T = np.append(np.repeat(np.arange(SESSIONS), LENGTHS), np.full(ITEMS - LENGTHS.sum(), SESSIONS))
FEEDBACK_T = np.array([0, 1, 2, 0, 1, 0, 0, 1, 2, 0, 0, 1, 2, 1, 0, 0, 1, 1, 0, 2, 0, 0, 0, 0])
MODEL = Model(width=WIDTH, heads=HEADS, mlp_ratio=2)
MODELS = {
    **{name: replace(MODEL, session_encoder=name) for name in ("mean", "sum", "max", "typed_mean", "attention")},
    "transformer": replace(MODEL, session_encoder="transformer"),
    "transformer, swiglu": replace(MODEL, session_encoder="transformer", mlp="swiglu"),
}
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
LEFT_OUT = [(), (IGNORED,), (CLICKED,), (IGNORED, CLICKED)]
every_input = pytest.mark.parametrize("left_out", mostly_slow(LEFT_OUT, quick=[(), (IGNORED,)]))


def without(model: Model, left_out: tuple[int, ...]) -> Model:
    return replace(model, ignored_in_input=IGNORED not in left_out, clicked_in_input=CLICKED not in left_out)


def encoder(model: Model, session_items: int = 9) -> SessionEncoderModule:
    return SESSION_ENCODERS.find(model.session_encoder).module(model, KINDS, session_items)


def e_TD(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(ITEMS, WIDTH)).astype(np.float32)


@functools.cache
def parameters(model: Model):
    """Returns parameters away from their initial values, so that no parameter is zero by design."""
    arrays = (jnp.zeros((1, WIDTH)), jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32))
    values = jax.jit(encoder(model).init, static_argnums=4)(jax.random.key(0), *arrays, SESSIONS)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: x + jnp.asarray(rng.normal(size=x.shape) * 0.3, jnp.float32), values)


@functools.partial(jax.jit, static_argnums=0)
def _encode(model: Model, values, e_TD, feedback_T, session_T):
    return encoder(model).apply(values, e_TD, feedback_T, session_T, SESSIONS)


def encode(model: Model, e_TD, feedback_T=FEEDBACK_T, session_T=SESSION_T) -> np.ndarray:
    arrays = (jnp.asarray(e_TD), jnp.asarray(feedback_T), jnp.asarray(session_T))
    return np.asarray(_encode(model, parameters(model), *arrays))


# Definitions.


def norm(x_TD: np.ndarray, scale_D: np.ndarray) -> np.ndarray:
    return x_TD / np.sqrt((x_TD**2).mean(axis=-1, keepdims=True) + 1e-6) * scale_D


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    exp = np.exp(x - x.max(axis=axis, keepdims=True))
    return exp / exp.sum(axis=axis, keepdims=True)


def encode_one_session(model: Model, x_ID: np.ndarray, feedback_I: np.ndarray, p: dict) -> np.ndarray:
    """Returns the session's vector before the projection (after it for typed_mean), from its I items alone."""
    kind = model.session_encoder
    if kind == "typed_mean":
        own = [x_ID[feedback_I == k] for k in range(KINDS)]
        return sum(
            (x.mean(axis=0) @ w_DD for x, w_DD in zip(own, p["project"], strict=True) if len(x)), np.zeros(WIDTH)
        )
    if not len(x_ID):
        return np.zeros(WIDTH)
    if kind == "attention":
        weight_IN = softmax(x_ID @ p["attention"], axis=0)
        return (np.repeat(weight_IN, WIDTH // HEADS, axis=1) * x_ID).sum(axis=0)
    if kind == "transformer":
        b = p["block"]
        q_ID, k_ID, v_ID = np.split(norm(x_ID, b["norm_attention"]) @ b["qkv"], 3, axis=1)
        slices = np.split(np.arange(WIDTH), HEADS)
        heads = [softmax(q_ID[:, h] @ k_ID[:, h].T / np.sqrt(len(h)), axis=1) @ v_ID[:, h] for h in slices]
        x_ID = x_ID + np.concatenate(heads, axis=1) @ b["attention_out"]
        h_ID = norm(x_ID, b["norm_mlp"])
        h_IF = h_ID @ b["mlp_in"]
        if model.mlp == "swiglu":
            gate_IF = h_ID @ b["mlp_gate"]
            h_IF = h_IF * gate_IF / (1 + np.exp(-gate_IF))
        else:  # the tanh form of gelu, Hendrycks & Gimpel 1606.08415
            h_IF = h_IF / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (h_IF + 0.044715 * h_IF**3)))
        x_ID = x_ID + h_IF @ b["mlp_out"]
    return {"sum": np.sum, "max": np.max}.get(kind, np.mean)(x_ID, axis=0)


@every_model
@every_input
def test_a_session_vector_is_that_of_its_items_alone_in_numpy(model, left_out):
    """It reads no other session, and items of a kind that is left out have no effect."""
    model = without(model, left_out)
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), parameters(model)["params"])
    x_TD = e_TD() + p["feedback"][FEEDBACK_T]
    kept_T = ~np.isin(FEEDBACK_T, left_out)
    own = [(session == SESSION_T) & kept_T for session in range(SESSIONS)]
    s_SD = np.stack([encode_one_session(model, x_TD[own_T], FEEDBACK_T[own_T], p) for own_T in own])
    if model.session_encoder != "typed_mean":
        s_SD = s_SD @ p["project"] + p.get("bias", 0)
    np.testing.assert_allclose(encode(model, e_TD()), s_SD, rtol=1e-4, atol=1e-4)


# Laws.


@every_model
@every_input
def test_changing_an_item_changes_its_own_session_only(model, left_out):
    model = without(model, left_out)
    before_SD = encode(model, e_TD())
    for place in (0, 5, 9, 19, 20, ITEMS - 1):
        changed_TD = e_TD()
        changed_TD[place] += 5
        changed_S = np.any(encode(model, changed_TD) != before_SD, axis=1)
        enters = FEEDBACK_T[place] not in left_out
        assert np.array_equal(changed_S, (np.arange(SESSIONS) == SESSION_T[place]) & enters)


@every_model
def test_the_order_of_a_sessions_items_does_not_matter(model):
    order_T = np.lexsort((np.random.default_rng(3).random(ITEMS), SESSION_T))
    shuffled_SD = encode(model, e_TD()[order_T], FEEDBACK_T[order_T])
    np.testing.assert_allclose(shuffled_SD, encode(model, e_TD()), rtol=1e-5, atol=1e-5)


@every_model
def test_ignored_items_left_out_are_items_removed(model):
    """Compares a program with the ignored items and one without them. Session 1 keeps no item."""
    kept_T = FEEDBACK_T != IGNORED
    spare = ITEMS - kept_T.sum()
    removed = (
        np.pad(e_TD()[kept_T], ((0, spare), (0, 0))),
        np.pad(FEEDBACK_T[kept_T], (0, spare)),
        np.pad(SESSION_T[kept_T], (0, spare), constant_values=SESSIONS),
    )
    left_out_SD = encode(replace(model, ignored_in_input=False), e_TD())
    np.testing.assert_allclose(left_out_SD, encode(model, *removed), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(left_out_SD[1], left_out_SD[2])
    assert np.any(left_out_SD != encode(model, e_TD()), axis=1)[0]


@every_model
def test_gradients_are_finite_and_reach_every_parameter(model):
    """Some sessions have no item."""
    arrays = (jnp.asarray(e_TD()), jnp.asarray(FEEDBACK_T), jnp.asarray(SESSION_T))
    gradient = jax.grad(lambda p: jnp.sum(jnp.sin(_encode(model, p, *arrays))))(parameters(model))
    for leaf in jax.tree.leaves(gradient):
        assert np.all(np.isfinite(leaf))
        assert np.any(leaf != 0)


def test_a_sum_and_not_a_mean_shows_the_number_of_items_through_a_norm():
    e_XD, feedback_X, session_X = (
        np.tile(e_TD()[:1], (3, 1)),
        np.ones(3, int),
        np.array([0, 1, 1]),
    )  # one item, and twice

    def normed(name: str) -> np.ndarray:
        return norm(encode(MODELS[name], e_XD, feedback_X, session_X)[:2], np.ones(WIDTH))

    np.testing.assert_allclose(normed("mean")[0], normed("mean")[1], rtol=1e-5)
    assert np.abs(normed("sum")[0] - normed("sum")[1]).max() > 0.1


def test_attention_starts_as_the_mean():
    at_start = jax.tree.map(jnp.asarray, parameters(MODELS["attention"]))
    at_start["params"]["attention"] = jnp.zeros((WIDTH, HEADS))
    arrays = (jnp.asarray(e_TD()), jnp.asarray(FEEDBACK_T), jnp.asarray(SESSION_T))
    mean = {"params": {name: at_start["params"][name] for name in ("feedback", "project")}}
    np.testing.assert_allclose(
        _encode(MODELS["attention"], at_start, *arrays), _encode(MODELS["mean"], mean, *arrays), rtol=1e-5, atol=1e-5
    )
    fresh = encoder(MODELS["attention"]).init(jax.random.key(1), *arrays, SESSIONS)["params"]
    assert not np.any(fresh["attention"])


def test_computing_activations_again_changes_no_result():
    model = MODELS["transformer"]
    kept = replace(model, remat=False)
    assert jax.tree.structure(parameters(model)) == jax.tree.structure(parameters(kept))
    np.testing.assert_array_equal(encode(model, e_TD()), encode(kept, e_TD()))


# Sizes and costs.


@every_model
@pytest.mark.parametrize("session_items", [1, 20])
def test_parameters_and_multiplications_are_counted(model, session_items):
    items, sessions = 3 * max(session_items, LEAST_BLOCK), 10  # whole blocks
    array = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.int32)
    arrays = (array((items, WIDTH), dtype=jnp.float32), array((items,)), array((items,)))
    module = encoder(model, session_items)
    values = jax.eval_shape(lambda *a: module.init(jax.random.key(0), *a, sessions), *arrays)
    cost = SESSION_ENCODERS.find(model.session_encoder).cost(model, KINDS, session_items)
    feedback = KINDS * model.width
    assert cost.parameters + feedback == sum(leaf.size for leaf in jax.tree.leaves(values))

    program = jax.make_jaxpr(lambda p, *a: module.apply(p, *a, sessions))(values, *arrays)
    assert multiplications(program.jaxpr) == items * cost.per_item + sessions * cost.per_session


@pytest.mark.parametrize("name", ["mean", "typed_mean"])
def test_the_parameters_of_older_runs_keep_their_names(name):
    assert set(parameters(MODELS[name])["params"]) == {"feedback", "project"}
