"""Helpers that compare devices: one training step on any number of them, and the size of what programs send."""

from __future__ import annotations

import re

import jax
import numpy as np
import pytest

from sessionrec_jax.config.settings import Config, Mesh
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.batches import shape_of, train_batches, train_catalogue
from sessionrec_jax.devices.mesh import batch_shards, make_mesh, replicated
from sessionrec_jax.devices.placement import put, put_batch, put_proposal, put_replicated, put_side
from sessionrec_jax.devices.sharding import shardings
from sessionrec_jax.loss.negatives import proposal
from sessionrec_jax.model.spec_of_log import spec_of
from sessionrec_jax.training.step import FixedArrays, Scalars, initial_state, make_step


def by_name(tree) -> dict[str, np.ndarray]:
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def assert_same_bits(one, other) -> None:
    one, other = by_name(one), by_name(other)
    assert one.keys() == other.keys()
    assert not [name for name in one if not np.array_equal(one[name], other[name])]


class OneStep:
    """The first step of training on the first batch, on a number of devices of the `data` axis or on another mesh."""

    def __init__(self, config: Config, log, devices: int | dict[str, int]):
        axes = devices if isinstance(devices, dict) else {"data": devices}
        mesh = make_mesh(replace(config, {f"mesh.{axis}": size for axis, size in axes.items()}).mesh)
        shape = shape_of(config, batch_shards(mesh))
        catalogue = train_catalogue(config, log)
        spec = spec_of(config, log, catalogue)
        self.batch = next(train_batches(config, log, shape))
        # Made on one device, since test_mesh.py finds its bits on any mesh and one program compiles sooner than many.
        whole = jax.device_get(initial_state(config, spec, catalogue, make_mesh(Mesh(data=1))))
        state = put(whole, shardings(mesh, spec.model, whole))
        self.before = whole.params
        self.key = jax.random.key(3)
        self.proposal = proposal(config.loss, catalogue)
        side = put_side(catalogue.side, spec.rows, mesh)
        q = put_proposal(self.proposal, spec.rows, mesh)
        scalars = put_replicated(Scalars(np.float32(1e-2), np.float32(0)), mesh)
        step = make_step(spec, config.loss, config.optim, mesh, microbatches=config.train.microbatches)
        key = jax.device_put(self.key, replicated(mesh))
        inputs, fixed = put_batch(self.batch, mesh), FixedArrays(side, q)
        self.program = step.lower(state, inputs, fixed, key=key, scalars=scalars).compile()
        self.state, self.sums = jax.device_get(self.program(state, inputs, fixed, key=key, scalars=scalars))


def assert_same_step(one: OneStep, other: OneStep, params_atol: float = 0.0) -> None:
    """Compares sums, gradients (Adam's first moment is a tenth of the clipped one) and parameters, within `params_atol`
    too: Adam's first step has length one whatever the gradient, and that of a gradient near zero is rounding."""
    for name, sums in one.sums._asdict().items():
        assert getattr(other.sums, name) == pytest.approx(sums, rel=1e-5, abs=1e-6), name
    for part in ("optimizer", "params"):
        leaves, others = by_name(getattr(one.state, part)), by_name(getattr(other.state, part))
        for name, leaf in leaves.items():
            near = max(1e-5 * max(np.abs(leaf).max(initial=0), 1e-6), params_atol if part == "params" else 0.0)
            np.testing.assert_allclose(others[name], leaf, atol=near, rtol=1e-3, err_msg=name)


COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter", "collective-broadcast")


def most_sent(program) -> int:
    """The size of the largest array that a collective of a compiled program returns; 0 without collectives."""
    results = re.findall(rf"= (.*?) (?:{'|'.join(COLLECTIVES)})(?:-start)?\(", program.as_text())
    shapes = [shape for result in results for shape in re.findall(r"\w+\[([\d,]*)\]", result)]
    return max((int(np.prod([int(n) for n in shape.split(",") if n])) for shape in shapes), default=0)
