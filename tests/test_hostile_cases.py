"""Tests hostile names, columns, settings and outputs, each as a command: it works, or ends with one clear message."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from hostile import FIT, PREPARE, everything, files_of_at_most, sessionrec, write_log, write_runs

pytestmark = pytest.mark.usefixtures("few_forms")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty folder that is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(command: str, here: Path, capsys, *leaves: str) -> str:
    """Runs a command that must be refused with one message and leave nothing but `leaves`. Returns its message."""
    before = everything(here)
    capsys.readouterr()
    assert sessionrec(command) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert said.count("error: ") == 1
    assert everything(here) - before <= set(leaves)
    return said


# The file that was named is the file that is read and written.


def test_a_table_whose_name_is_a_pattern_is_read_itself(here):
    write_runs(here / "runs[1].csv", 1.7)
    write_runs(here / "runs1.csv", 5.0)
    assert sessionrec(FIT.format("'runs[1].csv'") + " --json fit.json") == 0
    assert json.loads((here / "fit.json").read_text())["params"]["E"] == pytest.approx(1.7, abs=0.1)


@pytest.mark.parametrize("kind", ["csv", "parquet", "ndjson", "arrow"])
def test_each_kind_of_table_is_read_by_its_name(kind, here):
    """Also where a pattern would match a neighbour only, or the file and its neighbours."""
    import polars as pl

    from doors import tables

    readers = {
        "csv": (pl.DataFrame.write_csv, tables.read_csv, tables.scan_csv),
        "parquet": (pl.DataFrame.write_parquet, tables.read_parquet, tables.scan_parquet),
        "ndjson": (pl.DataFrame.write_ndjson, tables.read_ndjson, tables.scan_ndjson),
        "arrow": (pl.DataFrame.write_ipc, tables.scan_ipc, tables.scan_ipc),
    }
    write, *readers = readers[kind]
    for number, name in enumerate(("a1", "a[1]", "a*", "a?", "a{1,2}")):
        write(pl.DataFrame({"x": [number]}), here / f"{name}.{kind}")
    for number, name in enumerate(("a1", "a[1]", "a*", "a?", "a{1,2}")):
        for read in readers:
            assert read(here / f"{name}.{kind}").lazy().collect()["x"].to_list() == [number]


@pytest.mark.parametrize("out", ["D[1]", "brk[2024]/DATA", "a*", "it's ?", "ünï\u2028c"])
def test_a_log_may_have_any_name(out, here):
    (here / out).parent.mkdir(exist_ok=True)
    write_log(here / "log.csv")
    assert sessionrec(PREPARE.format("log.csv", f'"{out}"')) == 0
    assert sessionrec(f'describe --check "{out}"') == 0


def test_a_pattern_is_one_only_where_no_file_has_its_name(here, capsys):
    write_log(here / "log[1].csv", users=7)
    write_log(here / "log1.csv", users=9)
    for pattern, users in (("log[1].csv", 7), ("log[!2].csv", 9)):
        assert sessionrec(PREPARE.format(f"'{pattern}'", f"DATA{users}")) == 0
        assert f" {users}, of them" in capsys.readouterr().out


def test_an_output_goes_through_a_link(here):
    write_runs(here / "runs.csv")
    (here / "target.json").write_text("{}")
    (here / "link.json").symlink_to("target.json")
    assert sessionrec(FIT.format("runs.csv") + " --json link.json") == 0
    assert (here / "link.json").is_symlink()
    assert json.loads((here / "target.json").read_text())["law"] == "power_floor"


def test_an_output_goes_into_a_pipe(here):
    write_runs(here / "runs.csv")
    os.mkfifo(here / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((here / "pipe").read_text()), daemon=True)
    reader.start()
    assert sessionrec(FIT.format("runs.csv") + " --json pipe") == 0
    reader.join(timeout=10)
    assert json.loads(read[0])["law"] == "power_floor"
    assert (here / "pipe").is_fifo()


def test_a_device_stays_one(here):
    write_runs(here / "runs.csv")
    assert sessionrec(FIT.format("runs.csv") + " --json /dev/null") == 0
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("missing/dir/fit.json", "there is no folder missing/dir"),
        ("runs.csv/fit.json", "Not a directory"),
        ("runs.csv", "the file that this command has read"),
        ("alias.csv", "the file that this command has read"),
        ("folder", "it is a folder"),
        (f"{'x' * 300}.json", "File name too long"),
        ("circle", "links"),
        ("run/row.json", "run is a run and made of that file"),
    ],
)
def test_an_output_is_checked_before_anything_is_computed(path, words, here, capsys, monkeypatch):
    write_runs(here / "runs.csv")
    (here / "alias.csv").symlink_to("runs.csv")
    (here / "circle").symlink_to("circle")
    (here / "folder").mkdir()
    (here / "run").mkdir()
    (here / "run" / "config.json").write_text("{}")
    monkeypatch.setattr("scaling.fit", lambda *_, **__: pytest.fail("it computes"))
    assert words in refused(FIT.format("runs.csv") + f" --json {path}", here, capsys)


# Columns.


@pytest.mark.parametrize(
    ("header", "edit", "more", "words"),
    [
        ("user,item,ts,label,label", lambda r: [*r, 1 - r[3]], "", "'label' twice"),
        ("user,item,ts,label", list, "--item user", "--user and --item name the same column"),
        ("user,item,ts,label", list, "--items items.csv", "a column 'item_id' next to 'item'"),
        ("user,item,ts,label", lambda r: [*r[:3], 2 * r[3]], "", "neither true nor false: 120"),
    ],
)
def test_columns_that_cannot_be_meant_are_refused(header, edit, more, words, here, capsys):
    write_log(here / "log.csv", header=header, edit=edit)
    (here / "items.csv").write_text("item,item_id\n" + "".join(f"i{k},{k}\n" for k in range(20)))
    said = refused(f"{PREPARE.format('log.csv', 'DATA')} {more}", here, capsys, "DATA.rejected.parquet")
    assert words in said


def test_a_column_of_runs_that_is_named_twice_is_refused(here, capsys):
    write_runs(here / "runs.csv", names=("d", "loss", "loss"), edit=lambda row: [*row, 9])
    assert "'loss' twice" in refused(FIT.format("runs.csv"), here, capsys)


@pytest.mark.parametrize(
    "text", ["{}T10:{:02d}:00+02:00", "{} 08:{:02d}", "{}T08:{:02d}:00.000Z", "{}T13:{:02d}:00,0+0500"]
)
def test_times_may_be_text_in_iso_8601(text, here, capsys):
    def edit(row: list) -> list:
        day, minute = divmod(row[2] - 1714555000, 86400)
        return [*row[:2], text.format(f"2024-05-{1 + day:02d}", minute // 60), row[3]]

    write_log(here / "log.csv", edit=edit)
    assert sessionrec(PREPARE.replace(" --time-unit s", "").format("log.csv", "DATA")) == 0
    assert "2024-05-01 08:00 to 2024-05-06 08:19 UTC" in " ".join(capsys.readouterr().out.split())


# Folders that are something else.


def test_a_run_is_not_mixed_with_a_log(here, capsys):
    write_log(here / "log.csv")
    assert sessionrec(PREPARE.format("log.csv", "DATA")) == 0
    assert "DATA is a prepared log" in refused("train DATA --out DATA", here, capsys)
    assert "inside" in refused("train DATA --out DATA/runs/one", here, capsys)
    assert "is a file" in refused("train DATA --out log.csv", here, capsys)
    assert "Not a directory" in refused("train DATA --out log.csv/RUN", here, capsys)
    assert "too long" in refused(f"train DATA --out {'x' * 300}", here, capsys)
    assert "inside" in refused("sweep grid --data DATA --out DATA/SWEEP --users 5 --sizes xxs", here, capsys)
    assert "inside" in refused(PREPARE.format("log.csv", "DATA/DATA"), here, capsys)


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a folder that not even root can write")
def test_a_folder_that_cannot_be_written_is_named(here, capsys):
    write_log(here / "log.csv")
    assert sessionrec(PREPARE.format("log.csv", "DATA")) == 0
    for command in ("train DATA --out /sys/kernel/RUN", PREPARE.format("log.csv", "/sys/kernel/DATA")):
        assert "/sys/kernel/" in refused(command, here, capsys)


# Settings.


@pytest.mark.parametrize(
    "flags",
    ["--train.epochs 1e300", "--model.width 1000000000", f"--train.seed {10**30}", "--train.epochs nan",
     "--model.width 65536 --model.layers 1000", "--data.rows 16777216 --data.items-per-row 16777216"],
)  # fmt: skip
def test_a_run_that_could_not_end_claims_no_folder(flags, here, capsys):
    write_log(here / "log.csv")
    assert sessionrec(PREPARE.format("log.csv", "DATA")) == 0
    refused(f"train DATA --out RUN {flags}", here, capsys)


@pytest.mark.parametrize("flags", [f"--seed {10**30}", "--floor 100", "--bootstrap 1000000000", "--seed -1"])
def test_a_fit_with_impossible_numbers_is_refused(flags, here, capsys):
    write_runs(here / "runs.csv")
    refused(f"{FIT.format('runs.csv')} {flags}", here, capsys)


# A full disk.


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_device_is_named(here, capsys):
    write_runs(here / "runs.csv")
    assert sessionrec(FIT.format("runs.csv") + " --json /dev/full") == 1
    said = capsys.readouterr().err
    assert "/dev/full could not be written: No space left on device" in said


@pytest.mark.parametrize(("command", "named"), [("--json fit.json", "fit.json"), ("--out r.html", "r_figures")])
def test_a_full_disk_leaves_no_part_of_a_file(command, named, here, capsys):
    write_runs(here / "runs.csv")
    (here / "fit.json").write_text("{}")
    argv = FIT.format("runs.csv")
    argv = argv.replace("fit ", "report ") if "--out" in command else argv
    with files_of_at_most(3_000):
        assert sessionrec(f"{argv} {command}") == 1
    said = capsys.readouterr().err
    assert named in said
    assert "could not be written" in said
    assert (here / "fit.json").read_text() == "{}"
    assert not [path for path in here.rglob(".*") if path.is_file()]
