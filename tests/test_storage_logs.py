"""Logs in a bucket: fetched once, whole, and never a half-written one. A fault is one message, whoever asks."""

from __future__ import annotations

import resource
import shutil
import signal
import sys
from contextlib import contextmanager

import bucket_server
import numpy as np
import pytest

from doors.address import Address
from doors.errors import InputError
from doors.storage import bucket as bucket_module
from doors.storage import cache
from doors.storage.bucket import Bucket
from experiments.__main__ import main
from sessionrec_jax.data import bucket_log
from sessionrec_jax.data.store import open_log

# Logs.


@pytest.fixture
def stored(here, log) -> Address:
    """A log in the bucket, of which this machine has no copy."""
    with bucket_log.writing(here) as folder:
        shutil.copytree(log.path, folder)
    shutil.rmtree(cache.kept("logs"))
    return here


def test_a_log_is_fetched_once_and_is_the_same_log(stored, log):
    prepared = open_log(str(stored))
    assert prepared.fingerprint == log.fingerprint
    assert prepared.where == str(stored)
    assert np.array_equal(prepared.arrays().item_N, log.arrays().item_N)
    bucket = Bucket(stored)
    bucket.delete(stored / name for name in bucket.list(stored) if name != "prepared.json")
    assert open_log(str(stored)).path == prepared.path


def test_a_log_that_was_prepared_again_is_fetched_again(stored, log, wide_log):
    first = open_log(str(stored))
    with bucket_log.writing(stored) as folder:
        shutil.copytree(wide_log.path, folder)
    second = open_log(str(stored))
    assert (first.fingerprint, second.fingerprint) == (log.fingerprint, wide_log.fingerprint)
    assert second.path != first.path


def test_a_damaged_copy_is_fetched_again(stored):
    users = open_log(str(stored)).path / "users.parquet"
    whole = users.read_bytes()
    users.write_bytes(whole[:-10])
    assert (open_log(str(stored)).path / "users.parquet").read_bytes() == whole


def test_a_log_that_is_being_written_is_no_log(here, log, monkeypatch):
    put = Bucket.put

    def killed(self, object, content):
        if object.key.endswith("/prepared.json"):
            raise KeyboardInterrupt
        return put(self, object, content)

    monkeypatch.setattr(Bucket, "put", killed)
    with pytest.raises(KeyboardInterrupt), bucket_log.writing(here) as folder:
        shutil.copytree(log.path, folder)
    monkeypatch.setattr(Bucket, "put", put)
    with pytest.raises(InputError, match="is not a prepared log"):
        open_log(str(here))
    bucket_log.check_out(here, overwrite=False)  # the same command goes on
    with bucket_log.writing(here) as folder:
        shutil.copytree(log.path, folder)
    assert open_log(str(here)).fingerprint == log.fingerprint
    with pytest.raises(InputError, match="exists already"):
        bucket_log.check_out(here, overwrite=False)


def test_what_is_no_log_is_not_replaced(here):
    Bucket(here).put(here / "thesis.pdf", b"")
    with pytest.raises(InputError, match="other objects"):
        bucket_log.check_out(here, overwrite=True)


# Faults: one message, exit code 2, and nothing half-written.


def fault(argv: list[str], capsys) -> str:
    assert main(argv) == 2
    return " ".join(capsys.readouterr().err.split())


COMMANDS = {
    "describe": ["describe", "{}"], "train": ["train", "{}", "--out", "RUN"], "evaluate": ["evaluate", "{}"],
    "fit": ["fit", "{}"], "status": ["status", "{}"], "worker": ["worker", "{}"], "report": ["report", "{}"],
    "prepare": ["prepare", "synthetic", "--users", "20", "--out", "{}"], "compare": ["compare", "{}"],
    "sweep": ["sweep", "grid", "--data", "{}", "--out", "SWEEP", "--users", "8", "--sizes", "xs"],
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_names_a_bucket_that_is_not_there(name, here, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = [word.format("s3://no-such-bucket/NAME") for word in COMMANDS[name]]
    assert "there is no bucket no-such-bucket" in fault(argv, capsys)
    assert {path.name for path in tmp_path.iterdir()} <= {"home"}  # where the cache is


def test_a_scheme_that_is_not_known(here, capsys):
    assert "s4:// is no place for a folder; known: gs, s3" in fault(["describe", "s4://b/DATA"], capsys)


def test_credentials_without_rights(here, tmp_path, monkeypatch, capsys):
    with bucket_server.answering(403) as refusing:
        bucket_server.use(refusing, tmp_path / "home", monkeypatch)
        said = fault(["train", str(here), "--out", "RUN"], capsys)
    assert "may not be read with the credentials of this process (AccessDenied)" in said


def test_no_credentials(here, tmp_path, monkeypatch, capsys):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "there are no credentials; set AWS_ACCESS_KEY_ID" in fault(["describe", str(here)], capsys)


@pytest.mark.parametrize("kind", ["silent", "refusing", "failing"])
def test_an_endpoint_that_does_not_answer(kind, here, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bucket_module, "_REQUEST_SECONDS", 1)
    monkeypatch.setattr(bucket_module, "_RETRIES", 1)
    refusing = bucket_server.answering(503, "<Error><Code>SlowDown</Code></Error>")
    with {"silent": bucket_server.silent(), "failing": refusing, "refusing": _nobody()}[kind] as address:
        bucket_server.use(address, tmp_path / "home", monkeypatch)
        said = fault(["describe", str(here)], capsys)
    assert f"Is the server at {address} reachable from here?" in said


@contextmanager
def _nobody():
    yield f"http://127.0.0.1:{bucket_server.free_port()}"


def test_a_request_is_given_up_in_bounded_time():
    tries = bucket_module._RETRIES + 1
    assert min(tries * bucket_module._REQUEST_SECONDS, bucket_module._RETRY_SECONDS) + 30 <= 120


def test_an_object_of_a_log_that_was_cut(stored, capsys):
    bucket = Bucket(stored)
    bucket.put(stored / "items.parquet", bucket.get(stored / "items.parquet")[:-9])
    said = fault(["describe", str(stored)], capsys)
    assert f"{stored} is damaged: items.parquet has" in said
    assert not [path for path in cache.kept("logs").iterdir() if path.is_dir()]


def test_a_cache_that_cannot_be_written(stored, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    cache.of_this_process.cache_clear()
    assert "XDG_CACHE_HOME names the folder" in fault(["describe", str(stored)], capsys)


def test_a_cache_that_is_full(stored, capsys):
    cache.of_this_process()
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
    try:
        assert main(["describe", str(stored)]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert "could not be written: File too large; make room" in " ".join(capsys.readouterr().err.split())
    assert not [path for path in cache.kept("logs").iterdir() if path.is_dir()]
    assert open_log(str(stored)).users


@pytest.mark.parametrize(
    "argv",
    [
        ["watch", "s3://b/RUN", "--to", "tensorboard"],
        ["fit", "runs.csv", "--json", "s3://b/fit.json"],
        ["train", "DATA", "--out", "s3://b/RUN", "--log-to", "tensorboard"],
        ["sweep", "grid", "--data", "D", "--out", "s3://b/S", "--users", "8", "--sizes", "xs", "--launcher", "ray"],
    ],
)
def test_what_needs_a_folder_says_so(argv, here, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "is in a bucket" in fault(argv, capsys)


def test_a_missing_package_names_the_extra(here, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    assert 'pip install "sessionrec-jax[bucket]"' in fault(["describe", str(here)], capsys)
