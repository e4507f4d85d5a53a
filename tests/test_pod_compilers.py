"""`sessionrec pod` with the real compilers, where they are installed."""

from __future__ import annotations

import json

import numpy as np
import pytest

from experiments.__main__ import main
from sessionrec_jax.config.settings import Config


@pytest.mark.slow
def test_the_compiler_of_gpus(tmp_path):
    pytest.importorskip("jax_cuda13_plugin")
    file = tmp_path / "pod.json"
    argv = ["pod", "--topology", "H100:2x8", "--mesh", "data=8,model=2", "--items", "200000", "--json", str(file)]
    argv += ["--model.width", "8", "--model.layers", "1", "--model.id-width", "8", "--optim.table-update", "sparse"]
    assert main(argv) == 0
    (run,) = json.loads(file.read_text())
    assert run["devices"] == 16
    step = run["programs"]["step"]
    assert not step["moves"]
    assert any(one["dcn_bytes"] > 0 for one in step["collectives"])


@pytest.mark.slow
@pytest.mark.parametrize("id_width", [Config().model.id_width, 128])
def test_the_compiler_of_tpus(tmp_path, id_width):
    pytest.importorskip("libtpu")
    items, file = 10_000_000, tmp_path / "pod.json"
    argv = ["pod", "--topology", "v5e:4x4", "--mesh", "data=8,model=2", "--items", str(items), "--json", str(file)]
    argv += ["--model.width", "8", "--model.layers", "1", "--model.id-width", str(id_width)]
    argv += ["--model.compute", "bfloat16", "--optim.table-update", "sparse"]
    assert main(argv) == 0
    (run,) = json.loads(file.read_text())
    step = run["programs"]["step"]
    assert run["devices"] == 16
    assert step["cycles"] > 0
    assert all(move["on_chip"] for move in step["moves"])
    largest = max(one["sent_bytes"] / one["times"] for one in step["collectives"])
    assert largest < items / 16 * id_width * 4, "a collective is as large as a device's part of the ID table"
    assert np.isclose(step["arguments_bytes"], run["state_bytes"], rtol=1.0)
    assert any("devices/exchange.py" in line for line in step["unknown_loops"])


@pytest.mark.slow
def test_a_tpu_adds_up_gradients_in_the_type_that_was_asked_for(tmp_path):
    pytest.importorskip("libtpu")
    sent = {}
    for kind in ("float32", "bfloat16"):
        file = tmp_path / f"{kind}.json"
        argv = ["pod", "--topology", "v5e:2x2", "--mesh", "data=4", "--items", "20000", "--json", str(file)]
        argv += ["--model.width", "256", "--model.layers", "2", "--model.id-width", "8", "--optim.gradient-sum", kind]
        assert main([*argv, "--model.compute", "bfloat16", "--optim.table-update", "sparse"]) == 0
        collectives = json.loads(file.read_text())[0]["programs"]["step"]["collectives"]
        sent[kind] = sum(one["sent_bytes"] for one in collectives if one["kind"] == "all-reduce")
    assert sent["bfloat16"] < 0.6 * sent["float32"]
