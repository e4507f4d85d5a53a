"""Extensions from a file outside the package: they are counted, sharded, resumed and scaled like the built-in ones."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import jax
import numpy as np
import plugin_example
import pytest
from onestep import OneStep, assert_same_bits, assert_same_step
from test_checkpoint import train_until
from test_parametrization import MUP, slopes

from sessionrec_jax.config.rules import check
from sessionrec_jax.config.settings import Config, Mesh, Model
from sessionrec_jax.config.values import from_dict, replace, run_id, to_dict
from sessionrec_jax.devices.mesh import make_mesh
from sessionrec_jax.devices.sharding import is_table, shardings
from sessionrec_jax.errors import InputError
from sessionrec_jax.model import count, sessionrec
from sessionrec_jax.model.spec import Spec
from sessionrec_jax.registry import (
    RANK_LOSSES,
    SEQUENCE_ENCODERS,
    SESSION_ENCODERS,
    SOURCES,
    Registry,
    register_sequence_encoder,
)
from sessionrec_jax.serving.load import restore
from sessionrec_jax.training.loop import train

TOYS = {"model.session_encoder": "mean_and_max", "model.sequence_encoder": "running_mean", "loss.rank": "hinge"}
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def toys(config):
    return check(replace(config, TOYS | {"model.width": 16, "model.layers": 2}))


@pytest.mark.parametrize("layers", [0, 3])
def test_their_parameters_are_counted_and_spread(layers):
    model = Model(width=32, layers=layers, session_encoder="mean_and_max", sequence_encoder="running_mean")
    spec = Spec(model, 100, (("tag", 5),), feedback_kinds=3, max_positions=7, session_items=9, extra_rows=28)
    tree = jax.eval_shape(lambda: sessionrec.init_params(spec, jax.random.key(0)))
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    assert count.parameters(spec).body == sum(leaf.size for path, leaf in leaves if not is_table(path))
    places = jax.tree.leaves(shardings(make_mesh(Mesh(data=2, fsdp=2, model=2)), model, tree))
    for (path, leaf), place in zip(leaves, places, strict=True):
        is_spread = np.prod(place.shard_shape(leaf.shape), dtype=int) < leaf.size
        assert is_spread or leaf.size <= 1_024 or leaf.ndim < 2, jax.tree_util.keystr(path)


@pytest.mark.slow
def test_a_step_on_eight_devices_is_that_of_one(toys, log):
    assert_same_step(OneStep(toys, log, 1), OneStep(toys, log, {"data": 2, "fsdp": 2, "model": 2}), params_atol=2e-3)


@pytest.mark.slow  # test_checkpoint.py stops and resumes runs of this repository's encoders
def test_a_stopped_run_resumes_bit_for_bit(toys, log, tmp_path):
    toys = replace(toys, {"train.epochs": 2.0})
    whole = train(toys, log, tmp_path / "whole", quiet=True)
    train_until(3, toys, log, tmp_path / "stopped")
    assert_same_bits(train(toys, log, tmp_path / "stopped", quiet=True).params, whole.params)

    stored = tmp_path / "whole" / "config.json"
    stored.write_text(stored.read_text().replace("running_mean", "running_median"))
    with pytest.raises(InputError, match=r"'running_median'; did you mean 'running_mean'.*add --plugin MODULE"):
        restore(tmp_path / "whole")


@pytest.mark.slow
def test_under_mup_a_step_changes_as_much_in_any_width_and_depth():
    toys = dataclasses.replace(MUP, session_encoder="mean_and_max", sequence_encoder="running_mean")
    found = slopes(toys, "mup")
    assert all(-0.3 < slope < 0.3 for slope in found.values()), found


def test_the_name_is_part_of_the_run_id_and_of_the_stored_config():
    for name, value in TOYS.items():
        toy = replace(Config(), {name: value})
        assert run_id(toy) != run_id(Config())
        assert from_dict(json.loads(json.dumps(to_dict(toy)))) == toy


def test_its_positions_are_its_own():
    assert Model(sequence_encoder="running_mean").places == "learned"
    rotary = replace(Config(), {"model.sequence_encoder": "running_mean", "model.positions": "rotary"})
    with pytest.raises(InputError, match="encoder running_mean cannot use it; wanted auto or learned"):
        check(rotary)


def test_a_name_is_registered_once():
    register_sequence_encoder("running_mean", plugin_example.RUNNING_MEAN)  # the same object again
    for name in ("running_mean", "gru"):
        with pytest.raises(InputError, match=f"already a sequence encoder named '{name}'"):
            register_sequence_encoder(name, object())
    with pytest.raises(InputError, match="Python identifier; got 'my encoder'"):
        register_sequence_encoder("my encoder", object())


@pytest.mark.parametrize("registry", [SESSION_ENCODERS, SEQUENCE_ENCODERS, RANK_LOSSES, SOURCES], ids=lambda r: r.kind)
def test_every_built_in_extension_is_found_and_says_what_it_is(registry: Registry):
    for name in registry:
        assert registry.find(name) is not None
    if registry is not SOURCES:  # their lines are TITLE
        built_in = registry.help("Opening.").splitlines()[1:]
        assert [line.partition(": ")[0] for line in built_in] == [
            name for name in registry if name not in TOYS.values()
        ]


def test_the_guide_shows_the_example():
    example = (ROOT / "tests" / "plugin_example.py").read_text()
    shown = re.search(r"# \[docs\n(.*?)# docs\]", example, re.DOTALL)[1].strip()
    assert shown in (ROOT / "docs" / "extending.md").read_text()
