"""The front door from Python: the lines of README, doctests, histories of every kind, refusals, a light import."""

from __future__ import annotations

import doctest
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import sessionrec_jax as sr
from experiments.__main__ import main
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace, run_id
from sessionrec_jax.data.resolve import resolve
from sessionrec_jax.errors import InputError
from sessionrec_jax.evaluation.eval_users import with_eval_users
from sessionrec_jax.serving import prepare as prepare_module
from sessionrec_jax.serving import run as run_module
from sessionrec_jax.serving.frames import users_of_frame
from sessionrec_jax.serving.histories import histories_of, log_histories
from sessionrec_jax.serving.recommend import recommend
from sessionrec_jax.serving.vocabulary import Vocabulary

ROOT = Path(__file__).parents[1]
COLUMNS = {"user": "user", "item": "item", "time": "ts", "clicked": "label"}
SMALL = {"model.width": 8, "data.rows": 8, "mesh.data": 1, "train.epochs": 4}


def python_of_readme() -> str:
    """The first block of Python in README."""
    return (ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]


def shell_of_readme() -> str:
    """The lines of README that make log.csv."""
    text = (ROOT / "README.md").read_text()
    return "awk" + text.split("\nawk", 1)[1].split("log.csv", 1)[0] + "log.csv"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working folder with log.csv, the prepared log DATA and the run RUN."""
    path = tmp_path_factory.mktemp("work")
    subprocess.run(shell_of_readme(), shell=True, check=True, cwd=path)
    sr.prepare("table", exposures=str(path / "log.csv"), **COLUMNS, out=path / "DATA", quiet=True)
    sr.train(path / "DATA", path / "RUN", SMALL, quiet=True)
    return path


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def test_the_import_loads_no_heavy_module():
    heavy = ("jax", "flax", "polars", "numpy", "grain", "tensorflow_datasets", "tyro", "scaling")
    program = (
        f"import sys, sessionrec_jax as sr; assert 'train' in dir(sr); print([n for n in {heavy} if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_every_name_of_the_front_door_is_there():
    for name in sr.__all__:
        assert getattr(sr, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'fit'; it offers Config"):
        _ = sr.fit


@pytest.mark.slow  # the docstrings below are run with a model that is there
def test_the_lines_of_readme_run_as_written(folder, tmp_path, monkeypatch):
    (tmp_path / "log.csv").write_bytes((folder / "log.csv").read_bytes())
    monkeypatch.chdir(tmp_path)
    exec(python_of_readme().replace('"train.epochs": 30', '"train.epochs": 1, "mesh.data": 1'), {})
    assert json.loads((tmp_path / "TOY_RUN" / "row.json").read_text())["status"] == "done"


@pytest.mark.parametrize("module", [sr, prepare_module, run_module], ids=lambda module: module.__name__)
def test_docstrings_run(folder, tmp_path, monkeypatch, module):
    (tmp_path / "log.csv").write_bytes((folder / "log.csv").read_bytes())
    shutil.copytree(folder / "RUN", tmp_path / "RUN")  # so that nothing is trained again
    if module is not sr:  # whose own example prepares the log
        shutil.copytree(folder / "DATA", tmp_path / "DATA")
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testmod(module)
    assert tried >= 3
    assert not failed


# --- histories ---------------------------------------------------------------------------------------------------


def by_user(answers) -> dict:
    """Returns the answers by user. Scores are compared to 1e-5, since a session's items may be added up in another
    order."""
    return {answer["user"]: answer | {"scores": pytest.approx(answer["scores"], abs=1e-5)} for answer in answers}


def test_frames_lists_and_the_log_give_the_same_answers(here):
    run, frame = sr.load("RUN"), pl.read_csv("log.csv")
    from_log = {answer["user"]: answer for answer in run.recommend("log", k=5)}
    from_frame = run.recommend(frame, k=5, **COLUMNS)
    assert [answer["user"] for answer in from_frame] == frame["user"].unique(maintain_order=True).to_list()
    assert by_user(from_frame) == from_log
    shuffled = run.recommend(frame.sample(fraction=1, shuffle=True, seed=0), k=5, **COLUMNS)
    assert by_user(shuffled) == from_log
    sessions = [
        [{"item": row["item"], "clicked": bool(row["label"])} for row in session.iter_rows(named=True)]
        for session in frame.filter(user="u3").partition_by("ts", maintain_order=True)
    ]
    assert by_user(run.recommend([{"user": "u3", "sessions": sessions}], k=5)) == {"u3": from_log["u3"]}
    assert run.recommend("log", k=5, users=2) == list(recommend(run.model, log_histories(run.log, 2), 5, quiet=True))


def test_a_pandas_frame_is_read_by_columns(here):
    pandas = pytest.importorskip("pandas")
    run, frame = sr.load("RUN"), pl.read_csv("log.csv")
    columns = frame.to_dict(as_series=False)
    copied = pandas.DataFrame(columns)
    copied["label"] = copied["label"].astype(bool)
    copied["ts"] = pandas.to_datetime(copied["ts"], unit="ms")
    expected = run.recommend(frame, k=3, **COLUMNS)
    assert run.recommend(copied, k=3, **COLUMNS) == expected
    gaps = copied.assign(item=[None, *copied["item"][1:]])
    with pytest.raises(InputError, match="row 0 of the histories: null id"):
        run.recommend(gaps, **COLUMNS)


def test_a_frame_needs_no_names_where_it_has_those_of_the_contract(log):
    """The log has session ids and a kind of context; a frame of its rows is the stored log again."""
    flat, users = log.arrays(), 5
    exposures = flat.user_item_offsets_U1[users]
    session_S = np.repeat(np.arange(len(flat.session_items_S)), flat.session_items_S)[:exposures]
    feedback_N = flat.feedback_N[:exposures]
    frame = pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(users), np.diff(flat.user_item_offsets_U1[: users + 1])),
            "item_id": log.item_ids().to_numpy()[flat.item_N[:exposures] - 1],
            "timestamp_ms": flat.session_seconds_S[session_S] * 1000 + np.arange(exposures),
            "clicked": [None if code > 1 else bool(code) for code in feedback_N],
            "kind": [log.feedback_names[code] for code in feedback_N],
            "session_id": session_S,
        }
    )
    read = histories_of(users_of_frame(frame, log, feedback="kind"), Vocabulary.of_log(log, Config()))
    expected = log_histories(log, users)
    for name in ("item_N", "feedback_N", "session_items_S", "session_seconds_S", "user_session_offsets_U1"):
        np.testing.assert_array_equal(getattr(read.log, name), getattr(expected.log, name))
    assert read.unknown_items_U.tolist() == [0] * users
    with pytest.raises(InputError, match="log has session ids, and the histories have none"):
        users_of_frame(frame.drop("session_id"), log, feedback="kind")
    unknown = frame.with_columns(item_id=pl.lit("never seen"))
    read = histories_of(users_of_frame(unknown, log, feedback="kind"), Vocabulary.of_log(log, Config()))
    assert read.unknown_items_U.sum() == exposures
    assert not len(read.log.item_N)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"usr": "user"}, "histories have no option 'usr'; did you mean 'user'?"),
        ({"user": "usr"}, "the histories have no column 'usr'; did you mean 'user'? Name it with user=..."),
        (COLUMNS | {"clicked": "item"}, "row 0 of the histories: clicked is neither true nor false"),
        (COLUMNS | {"time_unit": "s"}, "row 0 of the histories: time before 1990 or after 2100"),
    ],
)
def test_a_frame_that_cannot_be_read_is_refused(here, columns, message):
    with pytest.raises(InputError) as refused:
        sr.load("RUN").recommend(pl.read_csv("log.csv"), **columns)
    assert message in str(refused.value)


def test_other_histories_are_refused(here):
    run = sr.load("RUN")
    for histories, message in (
        (7, 'histories is a int; expected a Polars or pandas frame, a list of dicts, a path, or "log"'),
        ([{"user": 1}], "histories[0] lacks 'sessions'"),
        ("nowhere.jsonl", "nowhere.jsonl cannot be read"),
    ):
        with pytest.raises(InputError) as refused:
            run.recommend(histories)
        assert message in str(refused.value)
    with pytest.raises(InputError, match="only a frame has columns; leave out user"):
        run.recommend("log", user="user")


# --- prepare and train -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("tabel", {}, "did you mean 'table'?"),
        ("table", {"usr": "user"}, "source table has no option 'usr'; did you mean 'user'?"),
        ("table", {}, "the option 'exposures' is missing"),
        ("table", {"time_unit": "hours"}, "the option time_unit is 'hours'; expected Literal['s'"),
        ("table", {"exposures": "x", "side_buckets": True}, "the option side_buckets is True; expected int"),
        ("table", {"exposures": "x", "numeric": "price"}, "the option numeric is 'price'; expected tuple[str, ...]"),
    ],
)
def test_prepare_refuses(here, source, options, message):
    with pytest.raises(InputError) as refused:
        sr.prepare(source, out="NEVER", **options)
    assert message in str(refused.value)
    assert not Path("NEVER").exists()


def test_settings_come_in_four_ways_and_mean_the_same(here):
    log = sr.open_log("DATA")
    for settings in (SMALL, replace(Config(), SMALL), "RUN/config.json", Path("RUN")):
        [config] = with_eval_users([resolve(run_module._config(settings), log)], log).configs
        assert run_id(config) == sr.load("RUN").row["run_id"]


def test_settings_of_a_run_on_another_log(here, log, tmp_path, monkeypatch):
    configs = []
    monkeypatch.setattr(
        run_module, "train_and_measure", lambda config, *_, **__: configs.append(config) or {"status": "done"}
    )
    sr.train(log, tmp_path / "run", "RUN/config.json")
    assert resolve(configs[0], log) == resolve(replace(Config(), SMALL), log)


def test_train_refuses_as_the_command_does(here, tmp_path):
    with pytest.raises(InputError, match=r"holds run .* settings differ"):
        sr.train("DATA", "RUN", SMALL | {"model.width": 16}, quiet=True)
    with pytest.raises(InputError, match="divisor of model"):
        sr.train("DATA", tmp_path / "run", SMALL | {"model.heads": 3}, quiet=True)
    assert not (tmp_path / "run").exists()
    assert sr.train("DATA", "RUN", SMALL, quiet=True).row == sr.load("RUN").row


def test_embeddings_score_as_recommend_does(here):
    run = sr.load("RUN")
    ids, vectors_ND = run.item_embeddings()
    assert ids.to_list() == run.log.item_ids().to_list()
    assert vectors_ND.shape == (len(ids), run.config.model.width)
    assert vectors_ND.dtype == np.float32


# --- plugins -----------------------------------------------------------------------------------------------------

PLUGIN = """
import sessionrec_jax as sr
from sessionrec_jax.data.sources import synthetic
sr.register_source("PLUGIN_NAME", synthetic)
"""


def test_a_plugin_of_the_working_folder_registers_a_source(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SESSIONREC_PLUGINS", "")
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "front_door_plugin.py").write_text(PLUGIN.replace("PLUGIN_NAME", "front_door_source"))
    argv = ["prepare", "front_door_source", "--users", "40", "--base", "4", "--depth", "2", "--out", "DATA"]
    assert main(["--plugin", "front_door_plugin", *argv]) == 0
    assert sr.open_log("DATA").users == 40
    assert main(["--plugin=no_such_plugin", *argv]) == 2
    assert "--plugin no_such_plugin: no such module" in capsys.readouterr().err
