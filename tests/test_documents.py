"""Every block of commands or Python of README and docs runs as a reader would type it, at small size.

The commands are read from the documents. SMALLER is the only change to them, and NOT_RUN lists the blocks that cannot
run here. The blocks of a document run in order, in one folder, which first holds what the reader has: a log, users, a
table of runs.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import planted_rates
import polars as pl
import pytest

from experiments.__main__ import main

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
DOCUMENTS = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").rglob("*.md") if path.parent.name != "made")]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.py"))
SMALLER = {
    # README
    "prepare synthetic --users 20000": "prepare synthetic --base 4 --depth 2 --users 400",
    "--model.width 128 --model.layers 4": "--model.width 8 --model.layers 1 --train.epochs 1",
    "--users 500 670 900 1200 1600 2150 2900 3900 5200 7000": "--users 32 48 80 140 240",
    "--sizes s --data.eval-users 500": "--sizes xxs --epochs 4 --workers 1 --data.eval-users 40 --learning-rates 1e-2",
    "--k 50": "--k 5",
    "sweep isoflop": "sweep isoflop --sizes xxs xs s --epochs 64",
    "--out PARADIGM ": "--out PARADIGM --epochs 0.2 --seeds 0 --learning-rates 3e-3 --encoders gru ",
    # docs
    "--mesh data=4,model=2 --data.rows 8": "--mesh data=4,model=2 --data.rows 8 --model.width 8 --train.epochs 1",
    "--paradigm nipp_plus ": "--paradigm nipp_plus --model.width 8 --train.epochs 0.1 ",
    "--data.rows 512": "--model.width 8 --train.epochs 1 --data.rows 512",
    "--bootstrap 4000": "--bootstrap 40",
    "--sessions 20000 60000 180000 540000 1600000": "--sessions 4000 8000 16000 32000 64000",
    "--sessions 20000000": "--sessions 200000 --model.no-remat",
    "--data.rows 4 --train.epochs 50": "--data.rows 4 --train.epochs 5 --model.width 8",
}
"""What a document says, and what is run instead."""
SMALLER_NOTEBOOKS = {
    "range(1500)": "range(60)",
    '"train.epochs": 16': '"train.epochs": 1',
    '"500 670 900 1200 1600 2150 2900 3900 5200 7000"': '"32 48 80 140 240"',
    "prepare synthetic --users 20000": "prepare synthetic --base 4 --depth 2 --users 400",
    "--sizes s --learning-rates 1e-2": "--sizes xxs --epochs 4 --workers 1 --learning-rates 1e-2",
    "--data.eval-users 500": "--data.eval-users 40",
}
NOT_RUN = {
    "make demo": "both targets install everything, and CI runs them",
    " a published log": "a figure",
    "# by hand, one line for each machine": "several machines; test_hosts.py runs processes on one",
    "#!/bin/bash": "a job of SLURM over four nodes",
    "gcloud compute": "TPU VMs",
    "# compiled for TPUs": "minutes of compiling, and libtpu; test_pod_compilers.py compiles one where it is installed",
    "sessionrec prepare synthetic --users 2000 --base 4": "SLURM; test_slurm.py runs a sweep where its daemons are",
    "sessionrec serve MODEL": "a service that runs until it is stopped; test_service.py starts one",
    "sessionrec prepare synthetic --users 20000 --out s3:": "a bucket; test_storage_sweep.py goes this way on a server",
    "ray start": "a cluster of Ray; test_ray.py starts one and runs a sweep",
}
"""The beginning of each block that does not run here, and why."""
CORE = ("sessionrec prepare synthetic", "sessionrec sweep grid", "sessionrec fit SWEEP", "sessionrec report")
"""The commands of README that lead from nothing to a law."""


class Block(NamedTuple):
    """A fenced block of Python, or without a language: then of commands, unless NOT_RUN says otherwise."""

    document: Path
    text: str
    is_python: bool = False

    @property
    def reason(self) -> str | None:
        """Why it does not run here; None if it does."""
        return next((why for start, why in NOT_RUN.items() if self.text.startswith(start)), None)

    @property
    def smaller(self) -> str:
        return functools.reduce(lambda text, change: text.replace(*change), SMALLER.items(), self.text)

    @property
    def program(self) -> list[str]:
        interpreter = [sys.executable] if self.is_python else ["bash", "-euxo", "pipefail"]
        return [*interpreter, "-c", self.smaller]


def blocks(document: Path) -> list[Block]:
    fenced = re.findall(r"^```([^\n`]*)\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL)
    return [Block(document, text, language == "python") for language, text in fenced if language in ("", "python")]


ALL = [block for document in DOCUMENTS for block in blocks(document)]


def test_every_block_is_of_commands_that_run_or_has_a_reason():
    commands = ("sessionrec ", "awk ", "echo ")
    for block in ALL:
        known = block.is_python or block.reason or block.text.startswith(commands)
        assert known, f"{block.document.name}: {block.text.splitlines()[0]}"


def test_the_readme_is_one_page():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


def test_the_tables_of_this_file_name_only_what_the_documents_say():
    for start in NOT_RUN:
        assert any(block.text.startswith(start) for block in ALL), start
    for text in SMALLER:
        assert any(text in block.text for block in ALL if not block.reason), text


def test_the_way_of_readme_from_nothing_to_a_law(tmp_path, monkeypatch, capsys):
    """In this process, to save time. The fit is not refused."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")
    typed = [block for block in blocks(ROOT / "README.md") if not block.is_python]
    lines = [line for block in typed for line in block.smaller.splitlines()]
    core = [line for line in lines if line.startswith(CORE)]
    assert len(core) == len(CORE)
    for line in core:
        assert main(shlex.split(line, comments=True)[1:]) == 0, f"{line}\n{capsys.readouterr().err}"
    fit = json.loads((tmp_path / "fit.json").read_text())
    assert fit["law"] == "power_floor"
    assert "beta" in capsys.readouterr().out


# All blocks, each document as one.

DAY, FIRST = 86_400_000, 1_650_882_384_000
ROWS = [(user, day, place) for user in range(20) for day in range(6) for place in range(4)]
LOG = "user_id,video_id,time_ms,is_click\n" + "".join(
    f"{user},{(7 * user + 3 * day + 5 * place) % 20},{FIRST + DAY * day + 1000 * place},{int(place == day % 4)}\n"
    for user, day, place in ROWS
)


@pytest.fixture
def readers_folder(tmp_path):
    """A folder with what README and docs take as given, and the command `sessionrec`."""
    program = tmp_path / "bin" / "sessionrec"
    program.parent.mkdir()
    devices = 'case "$*" in *--mesh*) export XLA_FLAGS="$XLA_FLAGS --xla_force_host_platform_device_count=8";; esac\n'
    program.write_text(f'#!/bin/bash\n{devices}exec {sys.executable} -m experiments "$@"\n')
    program.chmod(0o755)
    source = tmp_path / "SRC"
    source.mkdir()
    (source / "log_standard_4_22_to_5_08_pure.csv").write_text(LOG)
    videos = "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,"
    videos += "server_height,music_id,music_type,tag\n"
    videos += "".join(f"{video},1,NORMAL,2022-04-01,Web,public,9.0,1,1,1,1,{video % 3}\n" for video in range(20))
    (source / "video_features_basic_pure.csv").write_text(videos)
    session = [{"item": 1, "clicked": True}, {"item": 2, "clicked": False}]
    (tmp_path / "users.jsonl").write_text(
        json.dumps({"user": 7, "sessions": [session], "times": [1_714_555_000]}) + "\n"
    )
    grid = [(n, d) for n in (1e6, 1e7, 1e8) for d in (1e7, 1e8, 1e9, 1e10)]
    rows = [{"N": n, "D": d, "C": 6 * n * d, "LOSS": 1.7 + 400 / n**0.34 + 400 / d**0.28} for n, d in grid]
    pl.DataFrame(rows).write_csv(tmp_path / "runs.csv")
    sizes = [1e3 * 3**i for i in range(7)]
    arms = [(arm, d, 0.5 + size / d**0.3) for arm, size in (("gru", 3), ("hstu", 2)) for d in sizes]
    pl.DataFrame(arms, schema=["encoder", "D", "LOSS"], orient="row").write_csv(tmp_path / "arms.csv")
    tuned = planted_rates.table(batches=()).rename({"params": "N", "tokens": "D", "loss": "LOSS"})
    tuned.write_csv(tmp_path / "rates.csv")
    return tmp_path


def _environment(folder: Path) -> dict[str, str]:
    flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    return os.environ | {"XLA_FLAGS": flags, "PATH": path, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_blocks_of_a_document_run(document, readers_folder):
    runnable = [block for block in blocks(document) if not block.reason]
    if not runnable:
        pytest.skip("no block of it runs here")
    if document.name == "fits.md":
        figure = SHARED / "scaling" / "chinchilla_figure4.csv"
        if not figure.exists():
            pytest.skip("the points of Chinchilla's figure 4 are not here")
        (readers_folder / figure.name).write_bytes(figure.read_bytes())
    if document.name == "training.md":
        prepare = "sessionrec prepare synthetic --users 300 --base 4 --depth 2 --out DATA"
        runnable.insert(0, Block(document, prepare))
    environment = _environment(readers_folder)
    for block in runnable:
        done = subprocess.run(block.program, cwd=readers_folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-5000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs(notebook, readers_folder):
    text = functools.reduce(lambda text, change: text.replace(*change), SMALLER_NOTEBOOKS.items(), notebook.read_text())
    done = subprocess.run(
        [sys.executable, "-c", text],
        cwd=readers_folder,
        env=_environment(readers_folder),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-5000:]}"


def test_the_changes_to_notebooks_are_of_texts_that_they_have():
    written = "".join(notebook.read_text() for notebook in NOTEBOOKS)
    assert all(text in written for text in SMALLER_NOTEBOOKS)
