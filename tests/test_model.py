"""The model reads a user's past and nothing else, starts at popularity, and costs what count.py computes."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from grid import mostly_slow
from noise import noise_of
from onestep import assert_same_bits

from experiments.plans.sizes import SIZES, sized
from sessionrec_jax.config.settings import Config, Model
from sessionrec_jax.data.batches import train_catalogue
from sessionrec_jax.data.catalogue import from_counts
from sessionrec_jax.devices.mesh import make_mesh
from sessionrec_jax.devices.sharding import is_table
from sessionrec_jax.errors import InputError
from sessionrec_jax.model import count, sessionrec
from sessionrec_jax.model.attention import attention_mask
from sessionrec_jax.model.spec import Inputs, Spec
from sessionrec_jax.model.spec_of_log import spec_of
from sessionrec_jax.training.step import initial_state

ROWS, SLOTS, ITEMS_A_SESSION = 2, 6, 2
SESSIONS = ROWS * SLOTS
IDS = SESSIONS * ITEMS_A_SESSION + 1
USER_RL = np.array([[1, 1, 1, 2, 2, 0], [1, 1, 2, 3, 3, 3]])
POSITION_RL = np.array([[0, 1, 2, 0, 1, 0], [0, 1, 0, 0, 1, 2]])
SECONDS_RL = 4_000 * POSITION_RL + 50 * POSITION_RL**3
MODEL = Model(width=8, layers=2, heads=2, mlp_ratio=2, id_width=4, side_width=3)
SIDE_VALUES = (("tag", 5),)


def spec_with(model: Model = MODEL, kinds: int = 3, side_values=SIDE_VALUES, context_values=()) -> Spec:
    return Spec(model, IDS, side_values, kinds, SLOTS, ITEMS_A_SESSION, context_values=context_values)


def side() -> dict[str, jax.Array]:
    """Returns up to two of five tags for each item; some items have no tag."""
    return {"tag": jnp.asarray(np.random.default_rng(5).integers(0, 6, (IDS, 2)))}


@functools.cache
def parameters(spec: Spec):
    """Returns parameters away from their initial values, so that no parameter is zero by design."""
    return jax.tree.map(jnp.asarray, noise_of(spec))


def unlike_sessions() -> Inputs:
    """Every packed session has two items that no other session has, of different feedback."""
    packed_S = np.flatnonzero(USER_RL.reshape(-1))
    session_T = np.repeat(packed_S, ITEMS_A_SESSION)
    padding = SESSIONS * ITEMS_A_SESSION - len(session_T)
    item_T = np.append(np.arange(1, len(session_T) + 1), np.zeros(padding, int))
    feedback_T = np.append(np.arange(len(session_T)) % 3, np.zeros(padding, int))
    session_T = np.append(session_T, np.full(padding, SESSIONS))
    return Inputs(*map(jnp.asarray, (item_T, feedback_T, session_T, USER_RL, POSITION_RL, SECONDS_RL)))


@functools.partial(jax.jit, static_argnums=0)
def queries(spec: Spec, params, inputs: Inputs) -> jax.Array:
    """Returns both queries of every session, [S, 2 D]."""
    return jnp.concatenate(sessionrec.apply(spec, params, inputs, side())[1], axis=1)


def may_see() -> np.ndarray:
    """Returns [S, S]: True where the session (the first S) may depend on the other."""
    row_S, user_S, place_S = np.repeat(np.arange(ROWS), SLOTS), USER_RL.reshape(-1), np.tile(np.arange(SLOTS), ROWS)
    same = (row_S[:, None] == row_S) & (user_S[:, None] == user_S) & (user_S > 0)
    return same & (place_S[:, None] >= place_S)


def test_a_session_sees_its_users_past_and_nothing_else_by_gradient():
    spec, inputs = spec_with(), unlike_sessions()
    params = parameters(spec)

    def of_table(table_VE):
        embedding = {**params["item_embedding"], "item_table": table_VE}
        return queries(spec, {**params, "item_embedding": embedding}, inputs).sum(axis=1)

    jacobian_SV = np.abs(jax.jacrev(of_table)(params["item_embedding"]["item_table"])).sum(axis=2)
    seen_SV = np.zeros((SESSIONS, IDS), bool)
    for place, session in enumerate(np.asarray(inputs.session_of_item_T)):
        if session < SESSIONS:
            seen_SV[:, inputs.item_T[place]] = may_see()[:, session]
    packed_S = USER_RL.reshape(-1) > 0
    assert np.array_equal(jacobian_SV[packed_S] > 0, seen_SV[packed_S])


ENCODERS = ["attention", "max", "mean", "sum", "transformer", "typed_mean"]


@pytest.mark.parametrize("encoder", mostly_slow(ENCODERS, quick=["transformer", "typed_mean"]))
def test_what_a_session_may_not_see_changes_no_bit_of_it(encoder):
    spec, inputs = spec_with(replace(MODEL, session_encoder=encoder)), unlike_sessions()
    params, session_T = parameters(spec), np.asarray(inputs.session_of_item_T)
    before_SD = np.asarray(queries(spec, params, inputs))
    for session in np.flatnonzero(USER_RL.reshape(-1)):
        item_T = jnp.where(session_T == session, IDS - 1 - inputs.item_T, inputs.item_T)
        changed_S = np.any(before_SD != queries(spec, params, inputs._replace(item_T=item_T)), axis=1)
        assert np.array_equal(changed_S, may_see()[:, session])


# Session context.

CONTEXT_VALUES = (("device", 3), ("hour", 2))
DEVICE_RL, HOUR_RL = (np.random.default_rng(7).integers(1, n + 1, USER_RL.shape) for _, n in CONTEXT_VALUES)
IN_CONTEXT = unlike_sessions()._replace(context={"device": jnp.asarray(DEVICE_RL), "hour": jnp.asarray(HOUR_RL)})


@pytest.mark.parametrize("sequence_encoder", mostly_slow(["transformer", "hstu", "gru"], quick=["transformer"]))
def test_a_sessions_context_changes_it_and_its_users_later_ones_and_no_bit_of_any_other(sequence_encoder):
    model = replace(MODEL, sequence_encoder=sequence_encoder, session_encoder="mean")
    spec = spec_with(model, context_values=CONTEXT_VALUES)
    before_SD = queries(spec, parameters(spec), IN_CONTEXT)
    for session in np.flatnonzero(USER_RL.reshape(-1)):
        device_S = DEVICE_RL.reshape(-1).copy()
        device_S[session] = 1 + device_S[session] % 3
        context = {**IN_CONTEXT.context, "device": jnp.asarray(device_S.reshape(USER_RL.shape))}
        after_SD = queries(spec, parameters(spec), IN_CONTEXT._replace(context=context))
        assert np.array_equal(np.any(before_SD != after_SD, axis=1), may_see()[:, session])


def test_context_out_of_vocabulary_is_missing_and_the_gradient_reaches_the_rows_of_known_values_only():
    spec = spec_with(context_values=CONTEXT_VALUES)
    params = parameters(spec)
    given = {"device": jnp.where(DEVICE_RL == 2, 4, DEVICE_RL), "hour": jnp.asarray(HOUR_RL)}
    missing = {**given, "device": jnp.where(given["device"] == 4, 0, given["device"])}
    asked = [IN_CONTEXT._replace(context=context) for context in (given, missing)]
    assert np.array_equal(*(queries(spec, params, inputs) for inputs in asked))

    def of_tables(tables):
        return queries(spec, {**params, "session_context": tables}, asked[0]).sum()

    gradient = jax.grad(of_tables)(params["session_context"])
    packed_RL = USER_RL > 0
    for name, values in CONTEXT_VALUES:
        read = np.unique(given[name][packed_RL])
        assert np.array_equal(np.flatnonzero(np.any(gradient[f"context_{name}"] != 0, axis=1)), read[read <= values])


def test_at_the_start_context_adds_nothing_and_changes_no_other_parameter():
    clicks_V = np.arange(IDS)
    catalogue = from_counts(clicks_V, 2 * clicks_V, {}, {})
    without, spec = spec_with(), spec_with(context_values=CONTEXT_VALUES)
    plain, params = (sessionrec.init(of, jax.random.key(0), catalogue) for of in (without, spec))
    tables = params.pop("session_context")
    assert_same_bits(plain, params)
    away = parameters(without)
    assert np.array_equal(
        queries(without, away, unlike_sessions()), queries(spec, {**away, "session_context": tables}, IN_CONTEXT)
    )


def test_padding_has_no_effect():
    spec, inputs = spec_with(), unlike_sessions()
    padding_T = inputs.session_of_item_T == SESSIONS
    other = inputs._replace(
        item_T=jnp.where(padding_T, 7, inputs.item_T), feedback_T=jnp.where(padding_T, 2, inputs.feedback_T)
    )
    params, packed_S = parameters(spec), USER_RL.reshape(-1) > 0
    assert np.array_equal(queries(spec, params, other)[packed_S], queries(spec, params, inputs)[packed_S])


def test_the_order_of_a_sessions_items_does_not_matter():
    spec, inputs = spec_with(), unlike_sessions()
    order_T = np.arange(len(inputs.item_T)).reshape(-1, ITEMS_A_SESSION)[:, ::-1].reshape(-1)
    other = inputs._replace(item_T=inputs.item_T[order_T], feedback_T=inputs.feedback_T[order_T])
    np.testing.assert_allclose(
        queries(spec, parameters(spec), other), queries(spec, parameters(spec), inputs), rtol=1e-5, atol=1e-5
    )


def test_a_user_packed_alone_is_the_user_packed_with_others():
    """Masking equals removing."""
    spec, inputs = spec_with(), unlike_sessions()
    together_SD = queries(spec, parameters(spec), inputs)
    for row, user in ((0, 1), (0, 2), (1, 1), (1, 2), (1, 3)):
        slots = row * SLOTS + np.flatnonzero(USER_RL[row] == user)
        places = np.flatnonzero(np.isin(inputs.session_of_item_T, slots))
        spare = len(inputs.item_T) - len(places)
        user_RL, position_RL = np.zeros((2, ROWS, SLOTS), int)
        user_RL[0, : len(slots)], position_RL[0, : len(slots)] = 1, np.arange(len(slots))
        alone = Inputs(
            jnp.pad(inputs.item_T[places], (0, spare)),
            jnp.pad(inputs.feedback_T[places], (0, spare)),
            jnp.pad(inputs.session_of_item_T[places] - slots[0], (0, spare), constant_values=SESSIONS),
            jnp.asarray(user_RL),
            jnp.asarray(position_RL),
            jnp.asarray(4_000 * position_RL + 50 * position_RL**3),
        )
        alone_SD = queries(spec, parameters(spec), alone)[: len(slots)]
        np.testing.assert_allclose(alone_SD, together_SD[slots], rtol=1e-5, atol=1e-5)


def test_the_mask_is_causal_within_a_user_and_every_slot_sees_itself():
    mask_RLL = np.asarray(attention_mask(jnp.asarray(USER_RL)))
    for row, query, key in itertools.product(range(ROWS), range(SLOTS), range(SLOTS)):
        assert mask_RLL[row, query, key] == (USER_RL[row, query] == USER_RL[row, key] and key <= query)


def test_feedback_and_position_matter():
    spec, inputs = spec_with(), unlike_sessions()
    params = parameters(spec)
    before_SD, packed_S = queries(spec, params, inputs), USER_RL.reshape(-1) > 0
    for other in (
        inputs._replace(feedback_T=(inputs.feedback_T + 1) % 3),
        inputs._replace(position_RL=SLOTS - 1 - inputs.position_RL),
    ):
        assert np.all(np.any(before_SD != queries(spec, params, other), axis=1)[packed_S])


def test_typed_mean_of_one_kind_is_the_mean():
    typed = spec_with(replace(MODEL, session_encoder="typed_mean"), kinds=1)
    plain = spec_with(replace(MODEL, session_encoder="mean"), kinds=1)
    inputs = unlike_sessions()._replace(feedback_T=jnp.zeros_like(unlike_sessions().feedback_T))
    params = parameters(typed)
    project_KDD = params["session_encoder"]["project"]
    one_matrix = {**params, "session_encoder": {**params["session_encoder"], "project": project_KDD[0]}}
    np.testing.assert_allclose(queries(typed, params, inputs), queries(plain, one_matrix, inputs), rtol=1e-5, atol=1e-5)


# The start: popularity.


def test_before_the_first_step_the_rank_score_is_the_click_rate(config, log):
    catalogue = train_catalogue(config, log)
    params = initial_state(config, spec_of(config, log, catalogue), catalogue, make_mesh(config.mesh)).params
    rate = log.clicks_V.sum() / log.exposures_V.sum()
    assert 1 / (1 + np.exp(-params["heads"]["rank_bias"])) == pytest.approx(rate, rel=1e-5)


def test_items_need_an_id_or_side_information():
    bare = spec_with(replace(MODEL, id_width=0), side_values=())
    with pytest.raises(InputError, match=r"--model\.id-width is 0 and the log has no side information"):
        sessionrec.init(bare, jax.random.key(0), from_counts(np.arange(IDS), np.arange(IDS), {}, {}))


# Sizes and costs.


def shapes(spec: Spec):
    """Returns the shapes of the parameters without creating them."""
    ones_V = np.ones(spec.ids, int)
    return jax.eval_shape(lambda: sessionrec.init(spec, jax.random.key(0), from_counts(ones_V, ones_V, {}, {})))


COLUMNS = (("tag", 5), ("author", 700))
VARIANTS = {
    **{name: (sized(Config(), name).model, COLUMNS) for name in SIZES},
    "mean": (Model(session_encoder="mean"), COLUMNS),
    "no layers": (Model(layers=0), COLUMNS),
    "side information only": (Model(id_width=0), COLUMNS),
    "ids only": (Model(), ()),
}
CONTEXT = (("device", 3), ("hour_of_day", 24))


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_are_counted_by_group(name):
    model, side_values = VARIANTS[name]
    spec = Spec(model, 1_001, side_values, 4, 32, 8, context_values=CONTEXT)
    tree = shapes(spec)
    sizes = [(is_table(path), leaf.size) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]
    counted = count.parameters(spec)
    assert counted.item_table == sum(size for table, size in sizes if table)
    assert counted.body == sum(size for table, size in sizes if not table)
    assert counted.total == counted.item_table + counted.body
