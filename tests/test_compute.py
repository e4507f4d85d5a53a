"""Tests computing in bfloat16: which products use it, which arrays stay float32, and how far the gradients move."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from onestep import OneStep, by_name
from products import products
from test_count import traced_step

from sessionrec_jax.config.settings import Loss, Model
from sessionrec_jax.config.values import replace

VARIANTS = {
    "default": {},
    "hstu": {"model.sequence_encoder": "hstu", "model.session_encoder": "transformer"},
    "gru": {"model.sequence_encoder": "gru", "model.session_encoder": "attention"},
    "cosine": {"model.score": "cosine", "model.temperature_learned": True, "model.session_encoder": "sum"},
}


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=() if name == "default" else pytest.mark.slow) for name in VARIANTS],
)
def pair(request, config, log):
    """Runs a step in float32 and the same step in bfloat16."""
    varied = replace(config, VARIANTS[request.param])
    return tuple(OneStep(replace(varied, {"model.compute": compute}), log, 1) for compute in ("float32", "bfloat16"))


def test_losses_and_gradients_are_those_of_float32_to_the_rounding_of_bfloat16(pair):
    exact, rounded = pair
    for name, value in exact.sums._asdict().items():
        assert getattr(rounded.sums, name) == pytest.approx(value, rel=0.01), name
    moved = 0.0
    for name, one in by_name(exact.state.optimizer).items():  # Adam's first moment is a tenth of the clipped gradient
        if ".mu" in name and np.abs(one).max() > 1e-6:
            off = np.linalg.norm(by_name(rounded.state.optimizer)[name] - one) / np.linalg.norm(one)
            assert off < 0.08, name
            moved = max(moved, off)
    assert moved > 1e-4  # equal losses would mean that nothing was rounded


def test_parameters_and_the_optimizer_stay_float32(pair):
    _, rounded = pair
    for tree in (rounded.state.params, rounded.state.optimizer):
        assert {leaf.dtype.name for leaf in jax.tree.leaves(tree)} <= {"float32", "int32"}
    assert {x.dtype for x in rounded.sums} == {np.dtype(np.float32)}


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), {"data": 2, "fsdp": 2, "model": 2}])
def test_gradients_summed_in_bfloat16_are_those_of_float32_to_its_rounding(devices, config, log):
    config = replace(config, {"model.compute": "bfloat16", "model.score": "cosine"})  # heads that do not start at zero
    exact, rounded = (
        OneStep(replace(config, {"optim.gradient_sum": kind}), log, devices) for kind in ("float32", "bfloat16")
    )
    assert {leaf.dtype.name for leaf in jax.tree.leaves(rounded.state)} == {"float32", "int32"}
    moments, others = by_name(exact.state.optimizer), by_name(rounded.state.optimizer)
    for matrix in ("qkv", "attention_out", "mlp_in", "mlp_out"):
        (name,) = [name for name in moments if ".mu" in name and f"['blocks']['{matrix}']" in name]
        off = np.linalg.norm(others[name] - moments[name]) / np.linalg.norm(moments[name])
        assert 1e-5 < off < 0.02, (name, off)


QUICK = [("transformer", "transformer"), ("hstu", "max"), ("gru", "typed_mean")]
PAIRS = [
    pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow)
    for pair in itertools.product(["transformer", "hstu", "gru"], ["typed_mean", "mean", "max", "transformer"])
]


@pytest.mark.parametrize(("sse", "ise"), PAIRS)
def test_nearly_all_products_are_of_bfloat16(sse, ise):
    model = Model(width=64, sequence_encoder=sse, session_encoder=ise, compute="bfloat16")
    found = list(products(traced_step(model, Loss(negatives=64), rows=8, slots=16).jaxpr))
    sides = {sides for sides, _ in found}
    of_bfloat16 = sum(count for sides, count in found if set(sides) == {jnp.dtype("bfloat16")})
    # the rest: score and attention logits on their way back, and products of one item with one query
    assert of_bfloat16 > 0.88 * sum(count for _, count in found), sides
