"""Training FLOPs by formula equal the matrix products of the step, and nearly all that XLA counts for it."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from grid import mostly_slow
from products import multiplications

from sessionrec_jax.config.settings import Loss, Mesh, Model, Optim
from sessionrec_jax.data.catalogue import from_counts
from sessionrec_jax.devices.mesh import make_mesh
from sessionrec_jax.devices.placement import ShardedInputs
from sessionrec_jax.loss.negatives import Proposal
from sessionrec_jax.model import count, sessionrec
from sessionrec_jax.model.spec import Spec
from sessionrec_jax.training import optim
from sessionrec_jax.training.step import FixedArrays, Scalars, State, make_step

IDS, KINDS, ITEMS = 1_001, 3, 8  # ITEMS: exposures of every session
COLUMNS, VECTORS = (("tag", 5), ("author", 700)), (("caption", 300), ("cover", 20))


@pytest.fixture(autouse=True)
def nothing_is_computed_again(monkeypatch):
    """The convention leaves recomputation out; the full softmax does it whatever Model.remat says."""
    monkeypatch.setattr(jax, "checkpoint", lambda function, **_: function)


def array(*shape: int, dtype=jnp.int32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def spec_of(model: Model, slots: int) -> Spec:
    return Spec(model, IDS, COLUMNS, KINDS, slots, ITEMS, vector_widths=VECTORS)


def traced_step(model: Model, loss: Loss, rows: int, slots: int):
    """Traces one training step over `rows` full rows of `slots` sessions, on shapes alone: nothing is computed."""
    spec, mesh = spec_of(model, slots), make_mesh(Mesh(data=1))
    ones_V = np.ones(IDS, int)

    def state() -> State:
        params = sessionrec.init(spec, jax.random.key(0), from_counts(ones_V, ones_V, {}, {}))
        return State(jnp.zeros((), jnp.int32), params, optim.chain(Optim(), spec.model).init(params))

    items = rows * slots * ITEMS
    inputs = ShardedInputs(
        array(1, items), array(1, items, dtype=jnp.int8), array(1, items), *[array(1, rows, slots)] * 3,
        target_GS=array(1, rows * slots, dtype=bool),
    )  # fmt: skip
    side = {name: array(IDS, 1) for name, _ in COLUMNS}
    side |= {name: array(IDS, width, dtype=jnp.float16) for name, width in VECTORS}
    key = jax.eval_shape(lambda: jax.random.key(0))
    floats_V, float_ = array(IDS, dtype=jnp.float32), array(dtype=jnp.float32)
    fixed = FixedArrays(side, Proposal(floats_V, floats_V))
    step = make_step.__wrapped__(spec, loss, Optim(), mesh)  # not one that is kept: tests change how it is traced
    return step.trace(jax.eval_shape(state), inputs, fixed, key=key, scalars=Scalars(float_, float_))


def counted(model: Model, loss: Loss, rows: int, slots: int) -> float:
    spec, sessions = spec_of(model, slots), rows * slots
    return count.flops_train(spec, loss, items=sessions * ITEMS, sessions=sessions, steps=1)


# Together they have every choice that changes a product.
SHAPES = {
    "default": (Model(), Loss()),
    "wide": (Model(width=512, heads=8, mlp_ratio=2), Loss(negatives=16, retrieval="bce")),
    "mean": (Model(session_encoder="mean", sequence_encoder="hstu"), Loss(rank="listwise", negatives_from="in_batch")),
    "sum": (Model(session_encoder="sum", sequence_encoder="gru"), Loss(retrieval="full_softmax")),
    "max": (Model(session_encoder="max", positions="rotary", mlp="swiglu"), Loss(rank="pairwise")),
    "attention": (Model(session_encoder="attention", positions="relative_time", score="cosine", layers=5), Loss()),
    "transformer": (Model(session_encoder="transformer", id_width=0, layers=0), Loss()),
    "IDs dropped": (Model(id_dropout=0.1), Loss()),
    "IDs not scored": (Model(scored_by=("category", "cover")), Loss()),
    "transformer, swiglu": (
        Model(session_encoder="transformer", mlp="swiglu", sequence_encoder="hstu", positions="rotary"), Loss()
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", mostly_slow(SHAPES, quick=["default", "sum", "attention", "transformer, swiglu"]))
def test_training_flops_are_the_matrix_products_of_a_step(name):
    """Counts forward and backward products of every layer. The formula leaves out the mean over a list column's
    values.
    """
    model, loss = SHAPES[name]
    products = 2 * multiplications(traced_step(kept(model), loss, rows=3, slots=48).jaxpr.jaxpr)
    assert 1.0 <= products / counted(model, loss, rows=3, slots=48) < 1.002


# One layer, since XLA counts the body of a loop once. The GRU loops over its slots: the test above is all there is.
XLA_SHAPES = {
    "transformer": (Model(mlp="swiglu"), Loss()),
    "hstu": (Model(sequence_encoder="hstu"), Loss(alpha=0.0, retrieval="full_softmax")),
    "session transformer": (Model(session_encoder="transformer"), Loss(retrieval="bce")),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "transformer" else pytest.mark.slow) for name in XLA_SHAPES]
)
def test_training_flops_are_within_two_percent_of_what_xla_counts_of_the_compiled_step(name):
    """XLA counts softmax, norms, gelu and the optimizer too; they are small at this width."""
    model, loss = XLA_SHAPES[name]
    model = dataclasses.replace(model, width=512, layers=1)
    of_xla = traced_step(kept(model), loss, rows=32, slots=16).lower().compile().cost_analysis()["flops"]
    assert of_xla == pytest.approx(counted(model, loss, rows=32, slots=16), rel=0.02)


def kept(model: Model) -> Model:
    """Keeps the activations, because the convention leaves recomputation out."""
    return dataclasses.replace(model, remat=False)


def test_flops_grow_by_the_same_for_every_layer_and_every_step():
    def flops(layers: int, steps: int = 1) -> float:
        spec = Spec(Model(layers=layers), IDS, COLUMNS, KINDS, 32, ITEMS)
        return count.flops_train(spec, Loss(), items=1_000 * steps, sessions=100 * steps, steps=steps)

    assert flops(3) - flops(2) == flops(2) - flops(1) > 0
    assert flops(2, steps=10) == pytest.approx(10 * flops(2))
