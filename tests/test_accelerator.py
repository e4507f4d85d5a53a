"""Compares runs on an accelerator with runs on the CPU, in processes of their own. Skipped where jax finds no
accelerator.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from onestep import assert_same_bits
from test_deaths import die, start

from sessionrec_jax.config.values import replace
from sessionrec_jax.serving.load import restore

UNBOUND = {name: value for name, value in os.environ.items() if name not in ("JAX_PLATFORMS", "XLA_FLAGS")}
ON_CPU = UNBOUND | {"JAX_PLATFORMS": "cpu"}
EXACT = {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}
"""By default accelerators multiply float32 in fewer bits."""
FIXED_ORDER = {"XLA_FLAGS": "--xla_gpu_deterministic_ops=true"}
"""By default a GPU adds the values of one row in any order."""
VARIANTS = {
    "transformer": {},
    "fused transformer": {"model.attention": "fused"},
    "fused hstu": {"model.sequence_encoder": "hstu", "model.attention": "fused", "model.heads": 2},
    "sparse tables": {"optim.table_update": "sparse", "optim.table_rule": "adagrad"},
    "hstu": {"model.sequence_encoder": "hstu", "model.session_encoder": "attention", "model.heads": 2},
    "full softmax": {"loss.retrieval": "full_softmax", "model.session_encoder": "transformer"},
}


@pytest.fixture(scope="module", autouse=True)
def accelerator():
    program = "import jax; print(jax.default_backend())"
    found = subprocess.run([sys.executable, "-c", program], env=UNBOUND, capture_output=True, text=True, check=True)
    if found.stdout.split()[-1] == "cpu":
        pytest.skip("jax finds no accelerator")


def trained(config, log, folder: Path, environment: dict[str, str]) -> Path:
    process = start(config, log, folder, environment)
    said = process.communicate()[1]
    assert process.returncode == 0, said
    return folder


def losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["retrieval_nats_per_item"] for line in lines if "retrieval_nats_per_item" in line]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_step_has_the_loss_that_a_cpu_finds(config, log, tmp_path, variant):
    config = replace(config, {"train.epochs": 2.0, "train.log_every_steps": 1, **VARIANTS[variant]})
    here = losses(trained(config, log, tmp_path / "accelerator", UNBOUND | EXACT))
    assert here == pytest.approx(losses(trained(config, log, tmp_path / "cpu", ON_CPU)), rel=1e-4)
    assert len(here) > 10


def test_a_killed_run_ends_with_the_bits_of_an_undisturbed_one(config, log, tmp_path):
    config = replace(config, {"train.epochs": 4.0})
    process = start(config, log, tmp_path / "run", UNBOUND | FIXED_ORDER)
    said = die(process, tmp_path / "run", signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, said
    runs = [trained(config, log, tmp_path / name, UNBOUND | FIXED_ORDER) for name in ("run", "calm")]
    assert_same_bits(*(restore(run, log.path).params for run in runs))
