"""Golden runs: the trained parameters of one small run for each paradigm, compared with stored ones.

They catch a refactoring that changes a number. On the kind of machine that wrote `golden_runs.json` the parameters must
be equal bit for bit; elsewhere another order of additions is allowed, so they must be close.

A change that is meant to change the numbers writes the file again and says why in LOG.md:

    WRITE_GOLDEN=1 .venv/bin/pytest -n 0 tests/test_golden.py
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import jax
import jaxlib
import numpy as np
import pytest
from grid import mostly_slow

from sessionrec_jax.config.values import replace
from sessionrec_jax.data.resolve import resolve
from sessionrec_jax.training.loop import train

STORED = Path(__file__).parent / "golden_runs.json"
RUNS = {
    "nspp": {},
    "nspp, every part changed": {
        "model.session_encoder": "transformer", "model.heads": 2, "model.dropout": 0.1, "model.id_dropout": 0.1,
        "model.parametrization": "mup", "model.base_width": 4, "model.base_layers": 2, "model.base_heads": 1,
        "loss.rank": "pairwise", "optim.table_update": "sparse",
    },
    "nipp": {"paradigm": "nipp", "loss.alpha": 0.0, "model.sequence_encoder": "hstu", "loss.retrieval": "full_softmax"},
    "nipp_plus": {"paradigm": "nipp_plus", "model.sequence_encoder": "gru", "loss.retrieval": "bce"},
}  # fmt: skip


def machine() -> dict[str, str]:
    """Returns what decides the order of additions: the compiler, and the vector instructions that it may use."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    vector = sorted(flag for flag in flags if flag.startswith(("avx", "fma", "amx", "sse")))
    return {
        "jaxlib": jaxlib.__version__,
        "compiler flags": os.environ["XLA_FLAGS"],
        "cores": str(os.cpu_count()),
        "vector instructions": " ".join(vector),
    }


def summary(params) -> dict:
    """Returns the SHA-256 of all parameters, and the Euclidean norm of each, at least 1e-6."""
    leaves = {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(params)}
    digest = hashlib.sha256()
    for name in sorted(leaves):
        digest.update(f"{name} {leaves[name].dtype} {leaves[name].shape}".encode() + leaves[name].tobytes())
    norms = {name: float(np.sqrt(np.sum(leaves[name].astype(np.float64) ** 2))) for name in sorted(leaves)}
    return {"sha256": digest.hexdigest(), "norms": norms}


@pytest.mark.parametrize("name", mostly_slow(RUNS, quick=["nspp", "nspp, every part changed"]))
def test_a_golden_run_keeps_its_parameters(name, config, log, tmp_path):
    changed = replace(config, {"data.items_per_row": 0, "train.seed": 7} | RUNS[name])
    found = summary(train(resolve(changed, log), log, tmp_path / "run", quiet=True).params)
    if os.environ.get("WRITE_GOLDEN"):
        stored = json.loads(STORED.read_text()) if STORED.exists() else {"runs": {}}
        stored = {"machine": machine(), "runs": stored["runs"] | {name: found}}
        STORED.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")
    stored = json.loads(STORED.read_text())
    wanted = stored["runs"][name]
    assert found["norms"] == pytest.approx(wanted["norms"], rel=1e-2, abs=1e-5)
    if stored["machine"] == machine():
        assert found["sha256"] == wanted["sha256"]
