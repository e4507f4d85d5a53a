"""Every mesh takes the same step as one device; tables are never gathered; sparse and dense updates agree."""

from __future__ import annotations

import re

import jax
import numpy as np
import pytest
from onestep import OneStep, assert_same_step, by_name

from sessionrec_jax.config import Mesh, Model
from sessionrec_jax.config_values import replace
from sessionrec_jax.data.prepare import Settings, prepare
from sessionrec_jax.data.sources import synthetic
from sessionrec_jax.errors import InputError
from sessionrec_jax.model import sessionrec
from sessionrec_jax.model.sessionrec import Spec
from sessionrec_jax.partition import RULES, make_mesh, shardings
from sessionrec_jax.train import resolve

MESHES = [
    {"data": 8},
    {"data": 4, "model": 2},
    {"data": 2, "fsdp": 2, "model": 2},
    {"data": 1, "fsdp": 8},
    {"data": 1, "fsdp": 1, "model": 8},
    {"data": 2, "fsdp": 4},
]
SMALL = {"model.width": 16, "model.heads": 2, "model.id_width": 8, "loss.negatives": 8, "data.items_per_row": 0}


@pytest.fixture(scope="module")
def setting(config, tmp_path_factory):
    """A log of more items than a step reads, and a configuration for it."""
    raw = synthetic.read(synthetic.Options(users=60, base=4, depth=6, seed=1))
    log = prepare(raw, tmp_path_factory.mktemp("wide") / "log", Settings())
    wide = {"data.path": str(log.path), "data.fingerprint": log.fingerprint, "data.sessions_per_row": 4}
    return resolve(replace(config, SMALL | wide), log), log


@pytest.fixture(scope="module")
def one(setting):
    """Losses that read the catalogue in different ways, on one device."""
    config, log = setting
    return {name: OneStep(replace(config, settings), log, 1) for name, settings in LOSSES.items()}


LOSSES = {
    "sampled": {},
    "full": {"loss.retrieval": "full_softmax", "loss.other_clicks": "masked"},
    "sparse": {"optim.table_update": "sparse"},
}


@pytest.mark.parametrize("axes", MESHES, ids=lambda axes: "x".join(f"{k}{v}" for k, v in axes.items()))
@pytest.mark.parametrize("name", LOSSES)
def test_every_mesh_takes_the_step_of_one_device(setting, one, name, axes):
    config, log = setting
    assert_same_step(one[name], OneStep(replace(config, LOSSES[name]), log, axes))
