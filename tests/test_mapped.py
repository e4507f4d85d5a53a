"""The mapped arrays of a log are its records, are made again where they cannot be used, and take no memory."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from experiments.__main__ import main
from sessionrec_jax.data import mapped, soundness, store
from sessionrec_jax.data.flat_log import FlatLog, joined
from sessionrec_jax.data.preparation.prepare import Settings, prepare
from sessionrec_jax.data.sources import synthetic
from sessionrec_jax.errors import InputError

OPTIONS = synthetic.Options(users=40, base=4, depth=2, seed=6, click_probability=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Returns a log with soft labels and session context."""
    settings = Settings(session_time=("hour_of_day",))
    return prepare(synthetic.read(OPTIONS), tmp_path_factory.mktemp("data") / "log", settings).path


@pytest.fixture
def folder(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "log"))


def arrays_of(folder: Path) -> FlatLog:
    store._arrays.cache_clear()  # each opening is that of a new process
    return store.open_log(folder).arrays(soft_labels=True)


def assert_is_the_records(log: FlatLog, folder: Path) -> None:
    wanted = joined([*store.decoded(folder)])
    for name in (*mapped._ARRAYS, "click_probability_N"):
        found = getattr(log, name)
        assert found.dtype == getattr(wanted, name).dtype
        assert np.array_equal(found, getattr(wanted, name)), name
    assert log.session_context.keys() == wanted.session_context.keys() == {"hour_of_day"}
    assert np.array_equal(log.session_context["hour_of_day"], wanted.session_context["hour_of_day"])


def is_mapped(array: np.ndarray) -> bool:
    return isinstance(array.base, np.memmap)


def test_the_mapped_arrays_are_the_records(folder, capsys):
    log = arrays_of(folder)
    assert is_mapped(log.item_N)
    assert is_mapped(log.session_item_offsets_S1)
    assert_is_the_records(log, folder)
    assert capsys.readouterr().err == ""


def test_arrays_that_were_written_in_parts_are_the_same(folder, monkeypatch):
    monkeypatch.setattr(store, "_USERS_PER_READ", 7)
    before = (folder / "arrays" / "arrays.json").read_bytes()
    shutil.rmtree(folder / "arrays")
    assert_is_the_records(arrays_of(folder), folder)
    assert (folder / "arrays" / "arrays.json").read_bytes() == before


def test_a_log_of_an_earlier_release_gets_its_arrays_at_the_first_opening(folder, capsys):
    shutil.rmtree(folder / "arrays")
    assert is_mapped(arrays_of(folder).item_N)
    assert (folder / "arrays" / "arrays.json").is_file()
    assert capsys.readouterr().err == ""


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def other_byte_order(folder: Path) -> None:
    path = folder / "arrays" / "item_N.npy"
    np.save(path, np.load(path).astype(">i4"))


def of_another_log(folder: Path) -> None:
    path = folder / "arrays" / "arrays.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fingerprint": "0" * 16}))


def fewer_numbers(folder: Path) -> None:
    """Cuts an array and its entry in the list."""
    path = folder / "arrays" / "feedback_N.npy"
    np.save(path, np.load(path)[:-1])
    listed = json.loads((folder / "arrays" / "arrays.json").read_text())
    listed["files"][path.name][0] = path.stat().st_size
    (folder / "arrays" / "arrays.json").write_text(json.dumps(listed))


def no_array(folder: Path) -> None:
    """Puts text of the same length in the place of an array."""
    path = folder / "arrays" / "item_N.npy"
    path.write_bytes(b"x" * path.stat().st_size)


HARMS = {
    "of another log": of_another_log,
    "has numbers of the type >i4": other_byte_order,
    "session_role_S.npy has": lambda folder: cut(folder / "arrays" / "session_role_S.npy"),
    "prepared.json counts": fewer_numbers,
    "item_N.npy": no_array,
    "damaged": lambda folder: (folder / "arrays" / "user_session_offsets_U1.npy").unlink(),
    "arrays.json": lambda folder: (folder / "arrays" / "arrays.json").write_text("[]"),
    "is damaged": lambda folder: (folder / "arrays" / "arrays.json").unlink(),
}


@pytest.mark.parametrize("words", HARMS)
def test_arrays_that_cannot_be_used_are_made_again_with_one_message(words, folder, capsys):
    HARMS[words](folder)
    log = arrays_of(folder)
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert said.endswith("it is made again from the records\n")
    assert is_mapped(log.item_N)
    assert_is_the_records(log, folder)
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
    assert is_mapped(arrays_of(folder).item_N)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("error", [OSError(30, "Read-only file system"), OSError(28, "No space left on device")])
@pytest.mark.parametrize("when", ["mkdir", "write"])
def test_a_folder_that_cannot_be_written_opens_from_the_records(error, when, folder, capsys, monkeypatch):
    shutil.rmtree(folder / "arrays")

    def fail(*_, **__):
        raise error

    if when == "mkdir":
        monkeypatch.setattr(Path, "mkdir", fail)
    else:
        monkeypatch.setattr(np.lib.format, "write_array_header_1_0", fail)
    log = arrays_of(folder)
    said = capsys.readouterr().err
    assert error.strerror in said
    assert said.count("\n") == 1
    assert not is_mapped(log.item_N)
    assert_is_the_records(log, folder)
    assert [path.name for path in folder.iterdir() if "arrays" in path.name] == []


def test_records_that_the_manifest_does_not_count_leave_no_arrays(folder):
    shutil.rmtree(folder / "arrays")
    (folder / soundness.CHECKSUMS).unlink()
    manifest = json.loads((folder / store.MANIFEST).read_text())
    (folder / store.MANIFEST).write_text(json.dumps(manifest | {"sessions": manifest["sessions"] - 1}))
    with pytest.raises(InputError, match=r"prepared\.json counts"):
        arrays_of(folder)
    assert [path.name for path in folder.iterdir() if "arrays" in path.name] == []


def test_an_array_whose_bytes_were_changed_is_found_by_a_check(folder, capsys):
    path = folder / "arrays" / "item_N.npy"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    assert main(["describe", str(folder), "--check"]) == 2
    assert "delete the folder arrays" in " ".join(capsys.readouterr().err.split())
    shutil.rmtree(folder / "arrays")
    store._arrays.cache_clear()
    assert main(["describe", str(folder), "--check"]) == 0


def test_leftovers_of_killed_processes_are_removed_after_a_day(folder):
    fresh, old = folder / ".arrays-1", folder / ".arrays-2"
    for path in (fresh, old):
        path.mkdir()
    os.utime(old, (time.time() - 2 * 86_400,) * 2)
    shutil.rmtree(folder / "arrays")
    arrays_of(folder)
    assert fresh.exists()
    assert not old.exists()


OPEN = """
import sys
from sessionrec_jax.data import store
log = store.open_log(sys.argv[1]).arrays(soft_labels=True)
print(type(log.item_N.base).__name__, int(log.item_N.sum()))
"""


def test_processes_that_open_an_old_log_together_agree(folder):
    total = int(arrays_of(folder).item_N.sum())
    shutil.rmtree(folder / "arrays")
    command = [sys.executable, "-c", OPEN, str(folder)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert {process.communicate()[0].strip() for process in running} == {f"memmap {total}"}
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_arrays_that_another_process_made_meanwhile_stay(folder):
    """A process that has mapped some files of a folder must find the others."""
    theirs = (folder / "arrays" / "item_N.npy").stat().st_ino
    prepared = store.open_log(folder)
    mapped.write(folder, json.loads((folder / store.MANIFEST).read_text()), store.decoded(prepared.path))
    assert (folder / "arrays" / "item_N.npy").stat().st_ino == theirs


def test_a_folder_that_is_replaced_while_it_is_mapped_is_mapped_in_the_end(folder, monkeypatch):
    shutil.rmtree(folder / "arrays")
    whole, calls = mapped._mapped, itertools.count()

    def replaced_meanwhile(*arguments):
        if next(calls) == 1:  # the first call finds no folder, the second follows the writing
            raise mapped._Unusable("is damaged")
        return whole(*arguments)

    monkeypatch.setattr(mapped, "_mapped", replaced_meanwhile)
    assert is_mapped(arrays_of(folder).item_N)


# Memory.

FEED = """
import re, sys
from pathlib import Path
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.batches import shape_of, train_batches, train_catalogue
from sessionrec_jax.data.resolve import resolve
from sessionrec_jax.data.store import open_log

def private_bytes():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmData:\\s+(\\d+)", status)[1])

def feed(path, users):
    log = open_log(path)
    config = resolve(replace(Config(), {"data.users": users, "train.epochs": 1.0}), log)
    train_catalogue(config, log)
    for batch in train_batches(config, log, shape_of(config, 1)):
        pass

feed(sys.argv[1], 150)  # what the libraries allocate once
import resource
limit = private_bytes() + int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
feed(sys.argv[2], 150)
print("read")
"""


def repeat_users(folder: Path, times: int) -> None:
    """Makes a prepared log `times` as long, up to its records, by repeating its users."""
    manifest, parts = json.loads((folder / store.MANIFEST).read_text()), [*store.decoded(folder)]
    manifest |= {name: manifest[name] * times for name in ("users", "sessions", "exposures")}
    (folder / store.MANIFEST).write_text(json.dumps(manifest))
    pl.concat([pl.read_parquet(folder / "users.parquet")] * times).write_parquet(folder / "users.parquet")
    info = json.loads((folder / "log" / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = [str(manifest["users"])]
    (folder / "log" / "dataset_info.json").write_text(json.dumps(info))
    (folder / soundness.CHECKSUMS).unlink()
    mapped.write(folder, manifest, itertools.chain.from_iterable(itertools.repeat(parts, times)))


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_DATA and /proc")
def test_the_memory_of_a_run_does_not_grow_with_its_log(tmp_path, monkeypatch):
    """A limit on the private memory of a process, a sixth of the bytes of its log, is enough to read all batches."""
    small = prepare(synthetic.read(synthetic.Options(users=300, base=4, depth=2)), tmp_path / "small", Settings())
    large = Path(shutil.copytree(small.path, tmp_path / "large"))
    repeat_users(large, 200)
    bytes_of_log = sum(path.stat().st_size for path in (large / "arrays").iterdir())
    command = [sys.executable, "-c", FEED, str(small.path), str(large), str(bytes_of_log // 6)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "read\n"
