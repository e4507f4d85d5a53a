"""muP and CompleteP: a few steps change as much in any width and depth, and under standard they do not."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.row import identity
from sessionrec_jax import optim, parametrization
from sessionrec_jax.config import Config, Model, Optim
from sessionrec_jax.data.catalogue import from_counts
from sessionrec_jax.model import sessionrec
from sessionrec_jax.model.sessionrec import Inputs, SessionRec, Spec
from sessionrec_jax.partition import is_table

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
ROWS, SLOTS, IDS = 4, 6, 25
STEPS, RATE, SEEDS = 3, 1e-4, 2
WATCHED = ("item_embedding", "session_encoder", "sequence_encoder")


# The table.


def fan_ins(model: Model) -> dict[str, int]:
    """What each body parameter sums over; 1 for a vector. The layers of the scan lie stacked."""
    spec, ones_V = Spec(model, 9, (("tag", 5), ("a/b", 3)), 3, 6, 2), np.ones(9, int)
    shapes = jax.eval_shape(lambda: sessionrec.init(spec, jax.random.key(0), from_counts(ones_V, ones_V, {}, {})))
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
        multiplier = parametrization.learning_rate_multiplier(replace(MUP, width=96, **variant), path)
        assert multiplier == pytest.approx(base[path] / fan_in), path
        assert parametrization.learning_rate_multiplier(replace(BASE, width=96, **variant), path) == 1.0


@pytest.mark.parametrize("path", ["item_embedding/mlp_middle", "blocks/qkv", "heads/retrieval/more"])
def test_a_parameter_that_the_table_does_not_know_is_refused(path):
    with pytest.raises(ValueError, match=f"{path}' matches 0 rows"):
        parametrization.learning_rate_multiplier(MUP, path)


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
        return rule.update(gradient, rule.init(params), params)[0]["item_embedding"]

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
    """Sessions of two items each, one side column, and a target of every pair of a session and an item: whether their
    tags are on the same side. Something to learn, since noise of 1 / sqrt(width) is all that random targets leave."""
    rng, sessions = np.random.default_rng(0), ROWS * SLOTS
    item_T, tag_V = rng.integers(1, IDS, 2 * sessions), rng.integers(1, 6, IDS)
    place_RL = np.tile(np.arange(SLOTS), (ROWS, 1))
    of_item = (item_T, rng.integers(0, 3, 2 * sessions), np.repeat(np.arange(sessions), 2))
    inputs = Inputs(*map(jnp.asarray, (*of_item, np.ones((ROWS, SLOTS), int), place_RL, 4_000 * place_RL)))
    side_T = tag_V[item_T] > 3
    target_ST = side_T[::2, None] == side_T
    return inputs, {"tag": jnp.asarray(tag_V[:, None])}, jnp.asarray(target_ST)


@functools.cache
def changes(model: Model) -> dict[str, float]:
    """Mean size of what a few steps change, by what: e, s, o, and what the body adds to either score. Not squared, or
    the few slots where HSTU's norm divides by almost nothing would be all that is seen."""
    spec, rule = Spec(model, IDS, (("tag", 5),), 3, SLOTS, 2), optim.chain(Optim(table_rate_ratio=1.0), model)
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

    # This generator compiles faster; which numbers it draws does not matter here.
    keys, counts_V = [jax.random.key(seed, impl="unsafe_rbg") for seed in range(SEEDS)], np.ones(IDS, int)
    starts = [sessionrec.init(spec, key, from_counts(counts_V, counts_V, {}, {})) for key in keys]
    return jax.tree.map(lambda *of_seed: float(np.mean(of_seed)), *map(sizes, starts))


def slopes(base: Model, parametrization: str) -> dict[str, float]:
    """Of log change in log size, by activation, from `base`, where both are the same, to TIMES its width and depth."""
    grown = replace(base, width=TIMES * base.width, layers=TIMES * base.layers, parametrization=parametrization)
    one, other = changes(base), changes(grown)
    return {name: math.log(other[name] / one[name]) / math.log(TIMES) for name in one}


# HSTU comes down to its limit: an o that changes by .055 in 4 layers changes by .036 in 12, and in more by no less.
@pytest.mark.parametrize(
    ("variant", "least"),
    [
        ({}, -0.2),
        ({"sequence_encoder": "hstu", "session_encoder": "transformer"}, -0.5),
        ({"sequence_encoder": "gru", "session_encoder": "attention", "score": "cosine", "temperature": 0.2}, -0.2),
    ],
    ids=["transformer", "hstu", "gru"],
)
def test_under_mup_a_step_changes_as_much_in_a_model_of_any_width_and_depth(variant, least):
    found = slopes(replace(MUP, **variant), "mup")
    assert all(least < slope < 0.2 for slope in found.values()), found


def test_under_standard_a_step_changes_more_the_wider_and_the_deeper_the_model():
    found = slopes(MUP, "standard")
    assert found["retrieval"] > 1.5, found
    assert found["rank"] > 1.5, found
    assert found["session_encoder"] > 0.4, found
    assert found["sequence_encoder"] > 1.3, found  # .9 of the width alone, and .9 of the depth
