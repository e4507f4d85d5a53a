"""Every mesh takes the same step as one device; tables are never gathered; sparse and dense updates agree."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from grid import mostly_slow
from onestep import OneStep, assert_same_bits, assert_same_step, most_sent

from sessionrec_jax.config.settings import Loss, Mesh, Model, Optim
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.resolve import resolve
from sessionrec_jax.devices.mesh import by_row, make_mesh, over_batch, replicated
from sessionrec_jax.devices.placement import ShardedInputs, put, put_replicated
from sessionrec_jax.devices.sharding import shardings
from sessionrec_jax.errors import InputError
from sessionrec_jax.loss.negatives import Proposal
from sessionrec_jax.model import sessionrec
from sessionrec_jax.model.spec import Spec, extra_rows
from sessionrec_jax.training.step import FixedArrays, Scalars, abstract_state, initialiser, make_step

MESHES = [
    {"data": 8},
    {"data": 4, "model": 2},
    {"data": 2, "fsdp": 2, "model": 2},
    {"data": 1, "fsdp": 8},
    {"data": 1, "fsdp": 1, "model": 8},
    {"data": 2, "fsdp": 4},
]
SMALL = {"model.width": 16, "model.heads": 2, "model.id_width": 8, "loss.negatives": 8, "data.items_per_row": 0,
         "model.score": "cosine", "data.side_columns": ("category",)}  # fmt: skip
"""With the cosine score heads do not start at zero, so the item table has a gradient at the first step."""


@pytest.fixture(scope="module")
def setting(config, wide_log):
    """Returns a log with more items than a step reads, and a configuration for it."""
    wide = {"data.path": str(wide_log.path), "data.fingerprint": wide_log.fingerprint, "data.sessions_per_row": 4}
    return resolve(replace(config, SMALL | wide), wide_log), wide_log


@pytest.fixture(scope="module")
def one(setting):
    """Returns the step of each of LOSSES on one device."""
    config, log = setting
    return functools.cache(lambda name: OneStep(replace(config, LOSSES[name]), log, 1))


LOSSES = {
    "sampled": {},
    "full": {"loss.retrieval": "full_softmax", "loss.other_clicks": "masked"},
    "sparse": {"optim.table_update": "sparse"},
}


NEAR = 5e-4
"""A twentieth of the step's learning rate."""
NORMAL = [("sampled", {"data": 2, "fsdp": 2, "model": 2}),
          pytest.param("full", {"data": 4, "model": 2}, marks=pytest.mark.slow),
          pytest.param("sparse", {"data": 1, "fsdp": 2, "model": 4}, marks=pytest.mark.slow)]  # fmt: skip


def name_of(value) -> str:
    return value if isinstance(value, str) else "x".join(f"{axis}{size}" for axis, size in value.items())


@pytest.mark.parametrize(("name", "axes"), NORMAL, ids=name_of)
def test_a_mesh_takes_the_step_of_one_device_and_sends_no_table(setting, one, name, axes):
    config, log = setting
    many = OneStep(replace(config, LOSSES[name]), log, axes)
    assert_same_step(one(name), many, NEAR)
    table = many.before["item_embedding"]["item_table"]
    assert np.any(table != many.state.params["item_embedding"]["item_table"])
    # The full softmax gathers the part of the catalogue that a device scores; other losses send the batch's rows alone.
    largest = table.size / axes.get("model", 1) if name == "full" else table.size / 8
    assert 0 < most_sent(many.program) <= largest


@pytest.mark.slow
@pytest.mark.parametrize("axes", MESHES, ids=name_of)
@pytest.mark.parametrize("name", LOSSES)
def test_every_mesh_takes_the_step_of_one_device(setting, one, name, axes):
    config, log = setting
    assert_same_step(one(name), OneStep(replace(config, LOSSES[name]), log, axes), NEAR)


def test_sparse_adagrad_is_dense_adagrad_without_a_prior(one):
    assert_same_step(one("sampled"), one("sparse"))


def test_a_sparse_step_makes_no_array_of_a_tables_size(one):
    table = one("sparse").before["item_embedding"]["item_table"]
    taken, dense = (one(name).program.memory_analysis().temp_size_in_bytes for name in ("sparse", "sampled"))
    assert dense - taken > 0.9 * table.nbytes


@pytest.mark.slow
def test_lazy_adam_moves_the_rows_that_are_read_as_adam_does_and_no_others(setting):
    config, log = setting
    lazy, dense = (
        OneStep(replace(config, {"optim.table_rule": "adam", "optim.table_update": update}), log, 1)
        for update in ("sparse", "dense")
    )
    assert_same_step(lazy, dense)  # at the first step all moments are zero
    before, after = (p["item_embedding"]["item_table"] for p in (lazy.before, lazy.state.params))
    moved_V = np.any(before != after, axis=1)
    read_V = np.zeros(len(before), bool)
    read_V[np.unique(lazy.batch.item_GT)[1:]] = True
    assert moved_V[read_V].mean() > 0.5
    assert 0 < moved_V[~read_V].sum() <= config.loss.negatives


@pytest.mark.parametrize("encoder", ["transformer", "hstu", "gru"])
@pytest.mark.parametrize("ise", ["typed_mean", "attention", "transformer", "sum"])
def test_each_parameter_has_one_rule_and_the_large_ones_are_spread(encoder, ise):
    model = Model(width=32, heads=2, sequence_encoder=encoder, session_encoder=ise, mlp="swiglu")
    spec = Spec(model, 100, (("cat", 5),), 3, 16, 8, 28, context_values=(("device", 4),))
    tree = jax.eval_shape(lambda: sessionrec.init_params(spec, jax.random.key(0)))
    mesh = make_mesh(Mesh(data=2, fsdp=2, model=2))
    for (path, leaf), place in zip(
        jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(shardings(mesh, model, tree)), strict=True
    ):
        spread = np.prod(leaf.shape, dtype=int) / np.prod(place.shard_shape(leaf.shape), dtype=int)
        assert spread >= 2 or leaf.size <= 2_048 or leaf.ndim < 2, jax.tree_util.keystr(path)


@pytest.mark.parametrize("other", mostly_slow([Mesh(2, 2, 2), Mesh(model=8, data=1)], quick=[Mesh(2, 2, 2)]), ids=str)
def test_parameters_start_with_the_same_bits_on_every_mesh_and_no_device_makes_a_whole_table(other):
    spec = Spec(Model(width=32, id_width=8), 4_000, (("cat", 5),), 3, 16, 8, 96)
    of_heads = {"item_bias": np.linspace(-1, 0, spec.rows, dtype=np.float32), "rank_bias": np.float32(-1)}
    states = []
    for axes in (Mesh(data=1), other):
        mesh = make_mesh(axes)
        arguments = (put(jax.random.key(0), replicated(mesh)), put_replicated(of_heads, mesh))
        program = initialiser(spec, Optim(), mesh).lower(*arguments).compile()
        assert (f"[{spec.rows},8]" in program.as_text()) == (axes.model == 1)
        states.append(jax.device_get(program(*arguments)))
    assert_same_bits(*states)


def test_a_parameter_without_a_rule_is_an_error():
    with pytest.raises(ValueError, match="'body/weights' matches 0 rows"):
        shardings(make_mesh(Mesh(data=8)), Model(), {"body": {"weights": np.zeros((4, 4))}})


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (Mesh(data=9), r"--mesh data=9 wants 9 devices, but there are 8 .*--mesh data=8"),
        (Mesh(data=4, model=4), "model=4 wants 16 devices, but there are 8 .*use --mesh data=2,fsdp=1,model=4"),
        (Mesh(fsdp=16), "wants 16 devices.*use --mesh data=8,fsdp=1,model=1"),
        (Mesh(model=3), "--mesh.model is 3; wanted a divisor of 64"),
    ],
)  # fmt: skip
def test_a_mesh_that_does_not_fit_says_which_would(axes, message):
    with pytest.raises(InputError, match=message):
        make_mesh(axes)


@pytest.mark.parametrize("encoder", ["transformer", pytest.param("hstu", marks=pytest.mark.slow)])
def test_fsdp_gathers_weights_and_not_the_batch(encoder):
    """The vectors of a device's sessions have 65,536 numbers, a weight at most 4,096, the rows it reads 17,000."""
    rows, slots, items = 64, 32, 100_000
    model = Model(width=32, layers=2, heads=2, id_width=8, sequence_encoder=encoder)
    mesh = make_mesh(Mesh(data=2, fsdp=4))
    spec = Spec(model, items + 1, (), 2, slots, 1, extra_rows(items + 1))

    def batch(*shape, dtype=np.int32):
        return jax.ShapeDtypeStruct((8, *shape), dtype, sharding=over_batch(mesh))

    def everywhere(x):
        return jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=replicated(mesh))

    optimizer, loss = Optim(table_update="sparse"), Loss(negatives=64)
    shapes = abstract_state(spec, optimizer)
    state = jax.tree.map(
        lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), shapes, shardings(mesh, model, shapes)
    )
    inputs = ShardedInputs(
        *[batch(rows * slots)] * 3, *[batch(rows, slots)] * 3, target_GS=batch(rows * slots, dtype=np.bool_)
    )
    by_item = {"shape": (spec.rows,), "sharding": by_row(mesh, spec.rows)}
    q = Proposal(jax.ShapeDtypeStruct(dtype=np.float32, **by_item), jax.ShapeDtypeStruct(dtype=np.uint32, **by_item))
    key, scalars = everywhere(jax.random.key(0)), Scalars(everywhere(np.float32(0)), everywhere(np.float32(0)))
    program = make_step(spec, loss, optimizer, mesh).lower(state, inputs, FixedArrays({}, q), key=key, scalars=scalars)
    assert 4_000 < most_sent(program.compile()) < 65_536 / 2
