"""A model that is taken away: the exported program gives the bits of `recommend`, without this package."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from grid import mostly_slow
from noise import noise_of

import sessionrec_jax as sr
from experiments.__main__ import main
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.batches import train_catalogue
from sessionrec_jax.data.preparation.prepare import Settings, prepare
from sessionrec_jax.data.resolve import resolve
from sessionrec_jax.data.sources import synthetic
from sessionrec_jax.devices.mesh import make_mesh
from sessionrec_jax.devices.placement import put_replicated
from sessionrec_jax.errors import InputError
from sessionrec_jax.evaluation.trained_model import TrainedModel
from sessionrec_jax.model.spec_of_log import spec_of
from sessionrec_jax.serving import export as module
from sessionrec_jax.serving.export import export
from sessionrec_jax.serving.exported import ExportedModel
from sessionrec_jax.serving.histories import histories_of, log_histories
from sessionrec_jax.serving.recommend import recommend
from sessionrec_jax.serving.vocabulary import Vocabulary

DOCUMENT = Path(__file__).parents[1] / "docs" / "serving.md"
SMALL = {
    "data.rows": 8, "data.sessions_per_row": 8, "mesh.data": 1,
    "model.width": 8, "model.layers": 1, "model.id_width": 8, "model.side_width": 4,
}  # fmt: skip
VARIANTS = {
    "plain": {},
    "time, bounded sessions, lengths of one": {
        "model.sequence_encoder": "hstu", "model.session_encoder": "attention", "model.score": "cosine",
    },
    "every exposure a slot": {"paradigm": "nipp_plus", "loss.alpha": 0.0, "model.sequence_encoder": "gru"},
}  # fmt: skip


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A prepared log with text ids, rare items that share rows, side information and session context."""
    raw = synthetic.read(synthetic.Options(users=150, base=4, depth=3, sessions_mean=6.0, sessions_max=20, seed=2))
    text = pl.format("i{}", (pl.col("item_id") * 37) % 101).alias("item_id")
    device = pl.format("kind {}", pl.col("user_id") % 5).alias("session/device")
    exposures = raw.exposures.with_columns(text, device)
    raw = dataclasses.replace(raw, exposures=exposures, items=raw.items.with_columns(text), truth=None)
    settings = Settings(validation_users=20, test_users=60, min_item_exposures=60, tail_buckets=3)
    return prepare(raw, tmp_path_factory.mktemp("data") / "log", settings)


def untrained(log, changed) -> TrainedModel:
    """A run whose parameters are noise, so that every part of the model counts."""
    config = resolve(replace(Config(), SMALL | changed), log)
    catalogue = train_catalogue(config, log)
    spec, mesh = spec_of(config, log, catalogue), make_mesh(config.mesh)
    return TrainedModel(config, log, catalogue, spec, mesh, put_replicated(noise_of(spec, catalogue), mesh), 0)


@pytest.fixture(
    scope="module",
    params=mostly_slow(VARIANTS, quick=["plain"]),
    ids=str,
)
def taken(request, shop, tmp_path_factory):
    """A run and the folder that it was exported to."""
    run = untrained(shop, VARIANTS[request.param])
    to = tmp_path_factory.mktemp("exported") / "MODEL"
    export(run, None, to, k=20)
    return run, to


@pytest.fixture(scope="module")
def plain(shop, tmp_path_factory):
    run, to = untrained(shop, {}), tmp_path_factory.mktemp("plain") / "MODEL"
    export(run, None, to, k=20)
    return run, to


@pytest.mark.parametrize("seen", ["kept", "masked"])
def test_the_exported_program_has_the_bits_of_recommend(taken, seen):
    run, to = taken
    histories = log_histories(run.log, 100)
    wanted = list(recommend(run, histories, 20, seen, quiet=True))
    model = ExportedModel.read(to)
    assert list(model.answers(histories, 20, seen)) == wanted
    assert len({tuple(answer["items"]) for answer in wanted}) > 50  # the model depends on its history
    alone = list(model.answers(histories, 20, seen, places=1))
    assert [answer["items"] for answer in alone] == [answer["items"] for answer in wanted]
    for answer, other in zip(alone, wanted, strict=True):
        np.testing.assert_allclose(answer["scores"], other["scores"], atol=3e-6)  # rounded to 1e-6


def test_histories_are_read_and_counted_as_recommend_does(taken):
    run, to = taken
    known, times = {"item": "i37", "clicked": True}, [1_700_000_000, 1_700_090_000]
    users = [
        {"user": "a", "sessions": [[known], [{"item": "never seen", "clicked": False}, known]], "times": times,
         "context": [{"device": "kind 1"}, {"device": "never met"}]},
        {"user": "b", "sessions": [[{"item": "never seen", "clicked": True}]], "times": times[:1]},
        {"user": "c", "sessions": [], "times": []},
    ]  # fmt: skip
    wanted = list(recommend(run, histories_of(users, Vocabulary.of_log(run.log, run.config)), 5, quiet=True))
    assert ExportedModel.read(to).recommend(users, 5) == wanted
    assert [answer["unknown_items"] for answer in wanted] == [1, 1, 0]
    assert [answer["unknown_context"] for answer in wanted] == [1, 0, 0]
    assert ["fallback" in answer for answer in wanted] == [False, True, True]


def test_the_block_of_the_document_needs_neither_this_package_nor_the_log(plain, tmp_path):
    """The block runs in a process of its own; its answer has the bits that `recommend` gives before it rounds."""
    run, to = plain
    block = DOCUMENT.read_text().split("```python\n")[1].split("```")[0]
    items = run.log.item_ids().to_list()
    shutil.copytree(to, tmp_path / "MODEL")
    houses = ("sessionrec_jax", "experiments", "doors", "scaling", "flax", "safetensors")
    end = (
        f"\nimport sys\nassert not set({houses}) & set(sys.modules)\n"
        "print(json.dumps([recommended, [round(float(x), 6) for x in log_probabilities]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", block + end], capture_output=True, text=True, cwd=tmp_path, timeout=300
    )
    assert done.returncode == 0, done.stderr
    exposures = [{"item": items[place], "clicked": clicked} for place, clicked in ((3, True), (8, False), (5, True))]
    users = [{"user": 0, "sessions": [exposures[:2], exposures[2:]]}]
    [answer] = recommend(run, histories_of(users, Vocabulary.of_log(run.log, run.config)), 5, quiet=True)
    assert json.loads(done.stdout) == [answer["items"], answer["scores"]]


def test_the_files_say_what_the_model_is(plain):
    run, to = plain
    facts, items = json.loads((to / "model.json").read_text()), pl.read_parquet(to / "items.parquet")
    assert items["item_id"].to_list() == run.log.item_ids().to_list()
    vector_ND = np.stack(items["vector"].to_numpy())
    assert vector_ND.shape == (run.log.items, run.config.model.width)
    tensors = module_load(to)
    np.testing.assert_array_equal(tensors["catalogue.vector"][1 : run.log.items + 1], vector_ND)
    assert facts["log"]["fingerprint"] == run.log.fingerprint
    assert facts["settings"]["model"]["width"] == run.config.model.width
    assert str(run.log.path) not in (to / "model.json").read_text()
    assert "has not finished training" in (to / "README.md").read_text()
    assert (to / "model.safetensors").stat().st_mode == (to / "items.parquet").stat().st_mode
    # Rare items have a copy of the row that they shared, so that the file has more parameters than the model.
    assert run.spec.id_rows
    assert len(tensors["params.item_embedding.item_table"]) == run.spec.rows


def module_load(folder: Path):
    from safetensors.numpy import load_file

    return load_file(folder / module.WEIGHTS)


# --- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(shop, tmp_path_factory):
    path = tmp_path_factory.mktemp("work")
    sr.train(shop, path / "RUN", SMALL | {"train.epochs": 1.0}, quiet=True)
    return path


@pytest.mark.slow
def test_the_command_writes_a_card_with_intervals_and_refuses_a_folder_that_exists(folder, capsys):
    argv = ["export", str(folder / "RUN"), "--to", str(folder / "MODEL")]
    assert main([*argv, "--k", "1000"]) == 0
    facts, row = json.loads((folder / "MODEL" / "model.json").read_text()), sr.load(folder / "RUN").row
    metric = facts["metrics"]["recall_at_10"]
    assert metric["value"] == row["recall_at_10"]
    assert metric["high"] - metric["low"] == pytest.approx(2 * 1.96 * row["recall_at_10_stderr"], rel=1e-4)
    assert facts["metrics"]["recall_at_500"]["low"] is None  # all users have 1: no interval is known
    assert facts["k"] == facts["log"]["items"] == 64
    assert facts["parameters"]["params_body"] == row["params_body"]
    card = (folder / "MODEL" / "README.md").read_text()
    assert f"| recall_at_10 | {metric['value']:.4f} | [{metric['low']:.4f}, {metric['high']:.4f}] |" in card
    assert "must not be used for" in card
    assert main(argv) == 2
    assert "MODEL exists already" in capsys.readouterr().err
    assert main([*argv[:-1], str(folder / "RUN" / "MODEL")]) == 2
    assert "which is a run" in capsys.readouterr().err


def test_nothing_is_left_of_an_export_that_fails(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(module.model_card, "markdown", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(plain[0], None, tmp_path / "MODEL")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_whole_model_is_refused(plain, tmp_path):
    with pytest.raises(InputError, match=r"is not an exported model \(it has no model.json\)"):
        ExportedModel.read(tmp_path)
    for change, message in (
        (lambda to: (to / "items.parquet").unlink(), "items.parquet is missing; export the model again"),
        (lambda to: (to / "model.safetensors").write_bytes(b"x"), "model.safetensors is not as it was written"),
        (lambda to: (to / "model.json").write_text('{"version": 1}'), "it has no 'k'"),
        (lambda to: edit(to / "model.json", version=99), "format version 99; this release reads 1"),
    ):
        to = tmp_path / "MODEL"
        shutil.copytree(plain[1], to)
        change(to)
        with pytest.raises(InputError, match=message):
            ExportedModel.read(to)
        shutil.rmtree(to)
    with pytest.raises(InputError, match="k is 21, and the program finds 20 items"):
        ExportedModel.read(plain[1]).recommend([{"user": 1, "sessions": []}], 21)


def edit(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
