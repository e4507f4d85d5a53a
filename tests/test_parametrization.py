"""Under muP and CompleteP a few steps change the model equally in any width and depth; under standard they do not."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sessionrec_jax.config.settings import Config, Loss, Mesh, Model, Optim
from sessionrec_jax.data.catalogue import Catalogue, from_counts
from sessionrec_jax.devices.mesh import make_mesh
from sessionrec_jax.devices.placement import ShardedInputs
from sessionrec_jax.devices.sharding import is_table
from sessionrec_jax.loss.negatives import proposal
from sessionrec_jax.model import parameters, parametrization, sessionrec
from sessionrec_jax.model.embedding import ItemEmbedding
from sessionrec_jax.model.sessionrec import SessionRec
from sessionrec_jax.model.spec import Inputs, Params, Spec
from sessionrec_jax.row import identity
from sessionrec_jax.training import optim
from sessionrec_jax.training.step import FixedArrays, Scalars, State, make_step

BASE = Model(
    width=32, layers=4, heads=2, id_width=8, side_width=4, remat=False,
    base_width=32, base_layers=4, base_heads=2,
)  # fmt: skip
MUP = replace(BASE, parametrization="mup")
VARIANTS = [
    *({"session_encoder": kind} for kind in ("mean", "sum", "max", "typed_mean", "attention", "transformer")),
    *({"sequence_encoder": kind} for kind in ("transformer", "hstu", "gru")),
    {"mlp": "swiglu", "session_encoder": "transformer"},
    {"positions": "relative_time", "score": "cosine", "temperature_learned": True},
]
TIMES = 3
ROWS, SLOTS, ITEMS, IDS = 4, 6, 24, 100
STEPS, RATE, SEEDS = 3, 1e-4, 2
TAG = (("tag", 5),)
WATCHED = ("item_embedding", "session_encoder", "sequence_encoder")


# The table.


def fan_ins(model: Model) -> dict[str, int]:
    """Returns the fan-in of each body parameter, 1 for a vector. The scan stacks the layers on a leading axis."""
    spec = spec_of(model)._replace(side_values=(*TAG, ("a/b", 3)), context_values=(("device", 4),))
    shapes = jax.eval_shape(lambda: start(spec, 0))
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        if not is_table(path):
            name = "/".join(part.key for part in path)
            axes = leaf.shape["/blocks/" in name :]
            found[name] = axes[-2] if len(axes) > 1 else 1
    return found


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_the_rate_of_what_sums_over_the_width_falls_with_it_and_no_other(variant):
    base, wide = fan_ins(replace(MUP, **variant)), fan_ins(replace(MUP, width=96, **variant))
    for path, fan_in in wide.items():
        multiplier = parameters.learning_rate_multiplier(replace(MUP, width=96, **variant), path)
        assert multiplier == pytest.approx(base[path] / fan_in), path
        assert parameters.learning_rate_multiplier(replace(BASE, width=96, **variant), path) == 1.0


@pytest.mark.parametrize("path", ["item_embedding/mlp_middle", "blocks/qkv", "heads/rank/more", "sequence_encoder/qkv"])
def test_a_parameter_that_the_table_does_not_know_is_refused(path):
    with pytest.raises(ValueError, match=f"{path}' matches 0 rows"):
        parameters.learning_rate_multiplier(MUP, path)


@pytest.mark.parametrize("model", [MUP, replace(BASE, width=96, layers=7, heads=3)], ids=["base of mup", "standard"])
@pytest.mark.parametrize("score", ["dot", "cosine"])
def test_nothing_is_scaled_at_the_base_nor_under_standard(model, score):
    model = replace(model, score=score)
    assert parametrization.width_ratio(model) == 1.0
    assert parametrization.head_width_ratio(model) == 1.0
    assert parametrization.branch_scale(model) == 1.0
    assert parametrization.readout_scales(model) == (1.0, 1.0)
    assert parametrization.initial_layers(model) == model.layers


def test_more_heads_of_the_same_width_leave_the_logits_as_they_are():
    assert parametrization.head_width_ratio(replace(MUP, width=128, heads=8)) == 1.0


def test_adams_step_falls_with_the_width_and_the_decay_does_not():
    params = {
        "item_embedding": {"item_table": jnp.ones((3, 4)), "mlp_in": jnp.ones((4, 8)), "mlp_out": jnp.ones((8, 8))}
    }
    rng, settings = np.random.default_rng(0), Optim(weight_decay=0.25)
    gradient = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), params)

    def direction(model: Model) -> dict[str, jax.Array]:
        rule = optim.chain(settings, model)
        return jax.jit(lambda: rule.update(gradient, rule.init(params), params)[0]["item_embedding"])()

    standard, mup = direction(BASE), direction(replace(MUP, width=128))
    np.testing.assert_array_equal(mup["item_table"], standard["item_table"])
    np.testing.assert_array_equal(mup["mlp_in"], standard["mlp_in"])
    np.testing.assert_allclose(mup["mlp_out"] - 0.25, (standard["mlp_out"] - 0.25) / 4, rtol=1e-5)


@pytest.mark.parametrize(("parametrization", "rule"), [("standard", "fixed"), ("mup", "mup")])
def test_the_row_says_which_rule(parametrization, rule):
    config = Config(model=Model(parametrization=parametrization))
    assert identity(config, "plan")["learning_rate_rule"] == rule


# The coordinate check.


def batch() -> tuple[Inputs, dict[str, jax.Array], jax.Array]:
    """Returns sessions of two items each, one side column, and a target for every pair of a session and an item: their
    tags are on the same side. The model can learn it; random targets would leave only noise of 1 / sqrt(width)."""
    rng, sessions = np.random.default_rng(0), ROWS * SLOTS
    item_T, tag_V = rng.integers(1, ITEMS + 1, 2 * sessions), rng.integers(1, 6, IDS)
    place_RL = np.tile(np.arange(SLOTS), (ROWS, 1))
    of_item = (item_T, rng.integers(0, 3, 2 * sessions), np.repeat(np.arange(sessions), 2))
    inputs = Inputs(*map(jnp.asarray, (*of_item, np.ones((ROWS, SLOTS), int), place_RL, 4_000 * place_RL)))
    side_T = tag_V[item_T] > 3
    target_ST = side_T[::2, None] == side_T
    return inputs, {"tag": jnp.asarray(tag_V[:, None])}, jnp.asarray(target_ST)


@functools.cache
def changes(model: Model, table_rule: str) -> dict[str, float]:
    """Returns the mean absolute change after a few steps of e, s, o and the body's part of each score. Squares would be
    dominated by the few slots where HSTU's norm divides by almost zero."""
    spec, rule = spec_of(model), optim.chain(Optim(table_rate_ratio=1.0, table_rule=table_rule), model)
    inputs, side, target_ST = batch()

    def activations(params):
        (e_TD, queries), inner = SessionRec(spec).apply(
            {"params": params}, inputs, side, mutable="intermediates",
            capture_intermediates=lambda module, _: module.name in WATCHED,
        )  # fmt: skip
        outputs = {name: inner["intermediates"][name]["__call__"][0] for name in WATCHED}
        return {**outputs, "retrieval": queries.retrieval_SD @ e_TD.T, "rank": queries.rank_SD @ e_TD.T}

    def objective(params):
        found = activations(params)
        sign_ST = jnp.where(target_ST, -1, 1)
        return sum(jax.nn.softplus(sign_ST * found[name]).mean() for name in ("retrieval", "rank")), found

    def step(carry, _):
        params, state = carry
        gradient, found = jax.grad(objective, has_aux=True)(params)
        direction, state = rule.update(gradient, state, params)
        return (jax.tree.map(lambda x, d: x - RATE * d, params, direction), state), found

    @jax.jit
    def sizes(params):
        _, found = jax.lax.scan(step, (params, rule.init(params)), length=STEPS + 1)
        return jax.tree.map(lambda x: jnp.abs(x[STEPS] - x[0]).mean(), found)

    return jax.tree.map(lambda *of_seed: float(np.mean(of_seed)), *(sizes(start(spec, seed)) for seed in range(SEEDS)))


def grown(base: Model, parametrization: str) -> Model:
    return replace(base, width=TIMES * base.width, layers=TIMES * base.layers, parametrization=parametrization)


def spec_of(model: Model) -> Spec:
    return Spec(model, IDS, TAG, 3, SLOTS, 2)


def start(spec: Spec, seed: int) -> Params:
    # This generator compiles faster; which numbers it draws does not matter here.
    return sessionrec.init(spec, jax.random.key(seed, impl="unsafe_rbg"), flat_catalogue())


def flat_catalogue() -> Catalogue:
    ones_V = np.ones(IDS, int)
    return from_counts(ones_V, ones_V, {}, {})


def slopes(base: Model, parametrization: str, table_rule: str = "adagrad") -> dict[str, float]:
    """Returns the slope of log change in log size for each activation, from `base` to TIMES its width and depth."""
    one, other = changes(base, table_rule), changes(grown(base, parametrization), table_rule)
    return {name: math.log(other[name] / one[name]) / math.log(TIMES) for name in one}


# HSTU comes down to its limit: an o that changes by .055 in 4 layers changes by .036 in 12, and in more by no less.
HSTU = {"sequence_encoder": "hstu", "session_encoder": "transformer"}
GRU = {"sequence_encoder": "gru", "session_encoder": "attention", "score": "cosine", "temperature": 0.2}


@pytest.mark.parametrize(
    ("variant", "table_rule", "least"),
    [
        pytest.param({}, "adagrad", -0.3, id="transformer", marks=pytest.mark.slow),
        pytest.param({}, "adam", -0.3, id="transformer, adam", marks=pytest.mark.slow),
        pytest.param(HSTU, "adam", -0.5, id="hstu", marks=pytest.mark.slow),
        pytest.param(GRU, "adagrad", -0.3, id="gru", marks=pytest.mark.slow),
    ],
)
def test_under_mup_a_step_changes_as_much_in_a_model_of_any_width_and_depth(variant, table_rule, least):
    found = slopes(replace(MUP, **variant), "mup", table_rule)
    assert all(least < slope < 0.3 for slope in found.values()), found


@pytest.mark.slow
def test_under_standard_a_step_changes_more_the_wider_and_the_deeper_the_model():
    found = slopes(MUP, "standard")
    assert found["retrieval"] > 1.5, found
    assert found["rank"] > 1.5, found
    assert found["session_encoder"] > 0.4, found
    assert found["sequence_encoder"] > 1.3, found  # .9 of the width alone, and .9 of the depth


def changes_by_the_table(width: int) -> dict[str, float]:
    """Returns the mean absolute change in e after a few steps of the ID table alone, with random gradients, for each
    rule of the table."""
    model, (inputs, side, _) = replace(MUP, width=width), batch()
    module = ItemEmbedding(model, IDS, TAG)

    def size(table_rule, key):
        fixed = module.init(key, inputs.item_T, side)["params"]
        rule = optim.chain(Optim(table_rate_ratio=1.0, table_rule=table_rule), model)

        def embed(table):
            return module.apply({"params": fixed | table}, inputs.item_T, side)

        def step(carry, key):
            table, state = carry
            e_TD, pull_back = jax.vjp(embed, table)
            direction, state = rule.update(*pull_back(jax.random.normal(key, e_TD.shape)), state, table)
            return (jax.tree.map(lambda x, d: x - RATE * d, table, direction), state), None

        table = {"item_table": fixed["item_table"]}
        (moved, _), _ = jax.lax.scan(step, (table, rule.init(table)), jax.random.split(key, STEPS))
        return jnp.abs(embed(moved) - embed(table)).mean()

    sizes = jax.jit(lambda key: {rule: size(rule, key) for rule in ("adagrad", "adam")})
    of_seeds = [sizes(jax.random.key(seed, impl="unsafe_rbg")) for seed in range(SEEDS)]
    return jax.tree.map(lambda *of_seed: float(np.mean(of_seed)), *of_seeds)


def test_the_id_table_moves_e_as_much_in_any_width_by_either_rule():
    one, wide = changes_by_the_table(32), changes_by_the_table(512)
    slopes = {rule: math.log(wide[rule] / one[rule]) / math.log(16) for rule in one}
    assert all(abs(slope) < 0.1 for slope in slopes.values()), slopes


# The training step.


@pytest.mark.parametrize(
    ("table_rule", "table_update"), [("adagrad", "dense"), pytest.param("adam", "sparse", marks=pytest.mark.slow)]
)
def test_the_first_step_moves_each_parameter_by_its_own_learning_rate(table_rule, table_update):
    """Adam's first step changes every number with a gradient by the rate; row-wise Adagrad's first step has the rate as
    the root mean square of a row."""
    model = replace(MUP, width=96, layers=0)  # blocks would only cost time
    settings = Optim(weight_decay=0.0, table_rate_ratio=10.0, table_rule=table_rule, table_update=table_update)
    spec, loss, mesh = spec_of(model), Loss(negatives=8), make_mesh(Mesh(data=1))
    assert spec.ids > 1 + 2 * ROWS * SLOTS + loss.negatives, "or a sparse step reads the catalogue whole"
    params = start(spec, 0)
    params["heads"] |= {
        name: np.eye(model.width, dtype=np.float32) for name in ("retrieval", "rank")
    }  # zero has no gradient below it
    before = by_path(params)
    optimizer = jax.jit(optim.chain(settings, model).init)(params)
    state = State(jnp.zeros((), jnp.int32), params, optimizer)
    inputs, side, _ = batch()
    target_S = inputs.position_RL.reshape(-1) > 0
    one_shard = jax.tree.map(lambda x: x[None], ShardedInputs(*inputs[:6], target_S, inputs.context))
    fixed, scalars = FixedArrays(side, proposal(loss, flat_catalogue())), Scalars(jnp.float32(RATE), jnp.float32(0))
    step = make_step(spec, loss, settings, mesh)
    state, _ = step(state, one_shard, fixed, key=jax.random.key(0), scalars=scalars)
    for path, x in by_path(state.params).items():
        rates = np.abs(x - before[path]) / RATE
        if path in ("item_embedding/item_table", "heads/item_bias"):
            rate = np.sqrt(np.mean(rates.reshape(len(x), -1) ** 2, axis=1)).max()
            assert rate == pytest.approx(settings.table_rate_ratio, rel=0.01), path
        else:
            assert rates.max() == pytest.approx(parameters.learning_rate_multiplier(model, path), rel=0.01), path


def by_path(params: Params) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(params))
    return {"/".join(part.key for part in path): x for path, x in leaves}
