"""Tests damaged state: leases, rows, sweeps and prepared logs that were cut, edited or replaced are never trusted."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from hostile import begin_sweep, everything, finish, sessionrec

from doors.files import check_folder, replace_text
from doors.state import Damaged
from experiments.sweep import sweep_folder
from experiments.sweep.lease import LEASE_SECONDS, Leases
from experiments.sweep.worker import work
from sessionrec_jax.data import soundness, store
from sessionrec_jax.errors import InputError
from sessionrec_jax.runfolder.files import MetricsLog, open_own, write_json

pytestmark = pytest.mark.usefixtures("few_forms")

CUT = {
    "empty": "",
    "cut": '{"worker": "a:1", "mach',
    "a list": "[]",
    "null": "null",
    "no keys": "{}",
    "binary": "\udc80\udcff",
}


def damage(path: Path, text: str) -> None:
    path.write_bytes(text.encode(errors="surrogateescape"))


def rows(sweep: Path) -> int:
    return len(list(sweep.glob("runs/*/row.json")))


@pytest.fixture
def sweep(tmp_path) -> tuple[Path, list[str]]:
    return tmp_path / "S", begin_sweep(tmp_path / "S")


# Leases.


@pytest.mark.parametrize("text", CUT.values(), ids=CUT)
def test_a_damaged_lease_is_named_and_the_others_go_on(text, sweep, capsys):
    folder, (name, *_) = sweep
    with Leases(folder).take(name, 0, lambda: None) as lease:
        lease.end("released")
    damage(folder / "leases" / f"{name}.1", text)
    assert sessionrec(f"status {folder}") == 0
    assert f"{name}.1 is damaged" in " ".join(capsys.readouterr().out.split())
    work(folder, finish)
    assert capsys.readouterr().err.count(f"{name}.1 is damaged") == 1
    assert rows(folder) == 3
    assert sessionrec(f"status {folder} --json") == 0
    assert json.loads(capsys.readouterr().out)["counts"] == {"done": 3}


def test_a_damaged_lease_of_a_live_worker_keeps_its_run(sweep):
    """The lock of the holder says that it lives, whatever its file says."""
    folder, (name, *_) = sweep
    leases = Leases(folder)
    with leases.take(name, 0, lambda: None):
        os.truncate(folder / "leases" / f"{name}.1", 0)
        assert leases.past(name, 1).is_held
        assert leases.take(name, 1, lambda: None) is None


def test_a_lease_from_the_future_is_reported_and_taken_over(sweep, capsys):
    folder, (name, *_) = sweep
    path = folder / "leases" / f"{name}.1"
    path.parent.mkdir()
    write_json(path, {"worker": "elsewhere:1", "machine": "another", "state": "running", "reason": None})
    assert Leases(folder).past(name, 1).is_held
    os.utime(path, (time.time() + 10 * LEASE_SECONDS,) * 2)
    assert sessionrec(f"status {folder}") == 0
    assert "in the future" in " ".join(capsys.readouterr().out.split())
    work(folder, finish)
    assert "in the future" in capsys.readouterr().err
    assert rows(folder) == 3


# Rows.


@pytest.mark.parametrize(
    "text",
    [*list(CUT.values()), '{"status": 3}', '{"status": "who knows"}', '{"status": "failed"}',
     '{"status": "done", "loss_nats_per_item": "low"}', '{"status": "done", "steps": [1]}'],
)  # fmt: skip
def test_a_damaged_row_is_named_in_one_line(text, sweep, capsys):
    folder, (name, *_) = sweep
    path = sweep_folder.run_dir(folder, name) / "row.json"
    damage(path, text)
    assert sessionrec(f"status {folder}") == 0
    out = capsys.readouterr().out
    assert f"{name} damaged: {path}" in out
    assert "1 damaged" in out
    work(folder, finish)
    assert capsys.readouterr().err.count(str(path)) == 1
    assert rows(folder) == 3
    assert sessionrec(f"watch {folder} --to tensorboard") == 2
    said = capsys.readouterr().err
    assert str(path) in said
    assert "Traceback" not in said


@pytest.mark.parametrize("text", [CUT["empty"], CUT["a list"], CUT["no keys"]])
def test_a_comparison_names_the_damaged_row(text, sweep, capsys):
    folder, names = sweep
    path = sweep_folder.run_dir(folder, names[0]) / "row.json"
    damage(path, text)
    arm = {"table": "t", "budget": "b", "arm": "a", "is_reference": True, "runs": {"0": [names[0]]}}
    write_json(folder / "comparison.json", {"select_by": "validation_ndcg_at_50", "arms": [arm]})
    assert sessionrec(f"compare {folder}") == 2
    assert str(path) in capsys.readouterr().err
    write_json(folder / "comparison.json", {"select_by": 1, "arms": {}})
    assert sessionrec(f"compare {folder}") == 2


# sweep.json.


@pytest.mark.parametrize(
    "text",
    [*CUT.values(), '{"version": 1}', '{"version": 1, "plan": 1, "runs": {}}',
     '{"version": 1, "plan": "grid", "runs": [1]}', '{"version": 1, "plan": "p", "runs": {"a": 1}}'],
)  # fmt: skip
def test_a_damaged_sweep_is_one_message(text, sweep, capsys):
    folder, _ = sweep
    damage(folder / "sweep.json", text)
    readers = [f"status {folder}", f"worker {folder}", f"watch {folder} --to tensorboard"]
    for command in [*readers, f"fit {folder}"] if text in CUT.values() else readers:
        assert sessionrec(command) == 2
        said = capsys.readouterr().err
        assert "sweep.json" in said
        assert said.count("error: ") == 1


@pytest.mark.parametrize("changed", ["../../../evil", "ABCDEF012345", "0" * 12, "0" * 13, "/tmp/evil"])
def test_a_run_id_that_is_not_the_hash_of_its_settings_is_refused(changed, sweep, tmp_path, capsys):
    folder, names = sweep
    there = json.loads((folder / "sweep.json").read_text())
    there["runs"][changed] = there["runs"].pop(names[0])
    write_json(folder / "sweep.json", there)
    before = everything(tmp_path)
    with pytest.raises(InputError, match=r"sweep\.json is damaged"):
        work(folder, finish)
    assert everything(tmp_path) == before
    assert sessionrec(f"worker {folder}") == 2
    assert "Traceback" not in capsys.readouterr().err


def test_state_never_follows_a_link(sweep, tmp_path):
    """A sweep from somebody else may have links to files of the person who works on it."""
    folder, names = sweep
    mine = tmp_path / "mine"
    mine.write_text("mine")
    run_dir = sweep_folder.run_dir(folder, names[0])
    for name in ("row.json", "metrics.jsonl", "log.txt", ".lock"):
        (run_dir / name).unlink(missing_ok=True)
        (run_dir / name).symlink_to(mine)
        with pytest.raises(InputError, match="symbolic link"):
            open_own(run_dir / name, "a")
    (run_dir / "row.json").unlink()
    (run_dir / "log.txt").unlink()
    MetricsLog(run_dir / "metrics.jsonl", 0, 10, 1).add_validation(0, {"x": 1.0})
    replace_text(run_dir / ".lock", "")
    work(folder, finish)
    assert mine.read_text() == "mine"
    assert not (run_dir / "metrics.jsonl").is_symlink()


# metrics.jsonl.


def test_no_line_of_metrics_is_there_twice_after_a_kill_between_a_validation_and_its_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, 0, 40, 5)
    for step in range(20):
        log.add(step, 1e-3, (1.0, 1.0, 0.0, 0.0), lambda: {"sessions_per_second": 1.0})
        if (step + 1) % 10 == 0:
            log.add_validation(step, {"validation_objective": 1.0})
    # The checkpoint of step 20 was saved before the validation at step 20: it knows the one at step 10 only.
    MetricsLog(path, 20, 40, 5, validated_step=10).add_validation(19, {"validation_objective": 1.0})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines if "steps" not in line] == [9, 19]
    assert [line["step"] for line in lines if "steps" in line] == [4, 9, 14, 19]


@pytest.mark.parametrize(
    "line", ["", "[1]", '{"step": "x"}', '{"step_seconds_p50": null, "step": 1, "steps": 2}', "\udc80"]
)
def test_status_goes_on_over_a_damaged_line_of_metrics(line, sweep):
    folder, (name, *_) = sweep
    whole = json.dumps({"step": 3, "steps": 9, "step_seconds_p50": 1.0}) + "\n"
    damage(sweep_folder.run_dir(folder, name) / "metrics.jsonl", whole + line + "\n")
    assert sessionrec(f"status {folder}") == 0


# Prepared logs.


def other_catalogue(copy: Path, **changes) -> None:
    with np.load(copy / "catalogue.npz") as arrays:
        np.savez_compressed(copy / "catalogue.npz", **{**arrays, **changes})


def other_manifest(copy: Path, **changes) -> None:
    manifest = json.loads((copy / store.MANIFEST).read_text())
    manifest = {name: value for name, value in (manifest | changes).items() if value is not None}
    (copy / store.MANIFEST).write_text(json.dumps(manifest))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def record_file(copy: Path) -> Path:
    return next((copy / "log").glob("*.array_record-*"))


DAMAGES = {
    "catalogue of another size": lambda copy: other_catalogue(copy, clicks_V=np.zeros(9, np.int64)),
    "side information of another size": lambda copy: other_catalogue(copy, side_category_VW=np.zeros((9, 1), np.int32)),
    "a catalogue without an array": lambda copy: other_catalogue(copy, clicks_V=np.zeros(0, np.int64)),
    "a catalogue that is cut": lambda copy: cut(copy / "catalogue.npz"),
    "users that are cut": lambda copy: cut(copy / "users.parquet"),
    "items that are cut": lambda copy: cut(copy / "items.parquet"),
    "no users": lambda copy: (copy / "users.parquet").write_bytes(b""),
    "users of another log": lambda copy: shutil.copy(copy / "items.parquet", copy / "users.parquet"),
    "a record file is gone": lambda copy: record_file(copy).unlink(),
    "a record file is cut": lambda copy: cut(record_file(copy)),
    "TFDS's list is cut": lambda copy: cut(copy / "log" / "dataset_info.json"),
    "the manifest counts more users": lambda copy: other_manifest(copy, users=201),
    "the manifest counts fewer items": lambda copy: other_manifest(copy, items=63),
    "the manifest is a list": lambda copy: (copy / store.MANIFEST).write_text("[]"),
    "the manifest is null": lambda copy: (copy / store.MANIFEST).write_text("null"),
    **{f"the manifest has no {key}": lambda copy, key=key: other_manifest(copy, **{key: None})
       for key in ("users", "items", "fingerprint", "side_columns", "settings", "items_in_tail", "feedback_names")},
}  # fmt: skip


@pytest.mark.parametrize("harm", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("has_checksums", [True, False])
def test_a_damaged_log_is_refused_when_it_is_opened(harm, has_checksums, log, tmp_path):
    """Also one of an earlier release, which has no list of files."""
    copy = tmp_path / "log"
    shutil.copytree(log.path, copy)
    if not has_checksums:
        (copy / soundness.CHECKSUMS).unlink()
    harm(copy)
    with pytest.raises(InputError, match="prepare the log again"):
        store.open_log(copy)


def test_a_log_whose_records_are_another_log_s_is_not_trained_on(log, wide_log, tmp_path):
    """Sizes and counts that were made to agree are compared again when the log is decoded."""
    copy = tmp_path / "log"
    shutil.copytree(log.path, copy)
    (copy / soundness.CHECKSUMS).unlink()
    other_manifest(copy, exposures=log.manifest["exposures"] - 1)
    with pytest.raises(Damaged, match=r"exposures, and prepared\.json counts"):
        store.open_log(copy).arrays()


def test_a_check_reads_every_byte(log, tmp_path, capsys):
    copy = tmp_path / "log"
    shutil.copytree(log.path, copy)
    assert sessionrec(f"describe {copy} --check") == 0
    assert "as they were written" in capsys.readouterr().err
    raw = bytearray((copy / "rejected.parquet").read_bytes())
    raw[len(raw) // 2] ^= 1
    (copy / "rejected.parquet").write_bytes(raw)
    assert sessionrec(f"describe {copy}") == 0
    assert sessionrec(f"describe {copy} --check") == 2
    assert "rejected.parquet has" in capsys.readouterr().err


def test_a_folder_is_recognised_through_a_link(log, tmp_path):
    (tmp_path / "link").symlink_to(log.path)
    with pytest.raises(InputError, match="is a prepared log"):
        check_folder(tmp_path / "link", "a run")
    with pytest.raises(InputError, match="is inside"):
        check_folder(tmp_path / "link" / "runs" / "one", "a run")
