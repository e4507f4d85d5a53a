"""Buckets: a put that depends on a condition has one winner, copies follow the bucket, and a fault is one message."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bucket_server
import numpy as np
import pytest

from doors.address import Address, absolute, address_of, shown
from doors.errors import InputError
from doors.storage import copies
from doors.storage.bucket import Bucket, Unanswered
from sessionrec_jax.training.checkpoint import Checkpoints, newest_whole, steps_in


@pytest.fixture
def another_process(monkeypatch):
    return lambda: bucket_server.as_another_process(monkeypatch)


# Addresses.


def test_an_address_is_known_as_typed_and_as_pathlib_makes_it(tmp_path, monkeypatch):
    wanted = Address("s3", "b", "a/c")
    assert address_of("s3://b/a/c") == address_of("s3:/b/a/c/") == wanted
    assert shown("s3:/b/a/c") == absolute("s3:/b/a/c") == "s3://b/a/c"
    monkeypatch.chdir(tmp_path)
    assert absolute("RUN") == str(tmp_path / "RUN")
    assert address_of("/a/b") is address_of("a/b:c/d") is address_of("C") is None


@pytest.mark.parametrize("path", ["s3://b", "s3://", Path("s3://"), Path("gs://b"), "gs://b/../c", "s3://b/a//c"])
def test_an_address_names_a_folder_in_a_bucket(path):
    with pytest.raises(InputError, match=r"wanted (s3|gs)://BUCKET/NAME"):
        address_of(path)


# Objects.


def test_of_many_who_create_an_object_one_does(here):
    bucket = Bucket(here)
    with ThreadPoolExecutor(16) as pool:
        made = [*pool.map(lambda n: bucket.create(here / "lease", str(n).encode()), range(48))]
    winners = [number for number, version in enumerate(made) if version is not None]
    assert len(winners) == 1
    assert bucket.get(here / "lease") == str(winners[0]).encode()


def test_an_object_is_replaced_only_by_whom_its_version_is_known_to(here):
    bucket = Bucket(here)
    first = bucket.create(here / "x", b"1")
    second = bucket.replace(here / "x", b"2", first)
    assert bucket.replace(here / "x", b"3", first) is None
    assert bucket.get_version(here / "x") == (b"2", second)
    bucket.delete([here / "x", here / "x"])
    assert bucket.replace(here / "x", b"3", second) is None
    assert not bucket.has(here / "x")


def test_a_put_whose_answer_was_lost_knows_its_own_content(here):
    """The client repeats a request without an answer, and is then refused by what it has written itself."""
    bucket = Bucket(here)
    version = bucket.create(here / "x", b"mine")
    assert bucket.create(here / "x", b"mine") == version
    assert bucket.create(here / "x", b"another's") is None
    assert bucket.replace(here / "x", b"mine", "older") == version


def test_no_object_leads_out_of_a_folder(here, monkeypatch):
    pages = [[{"path": f"{here.key}/../../{name}", "size": 1, "last_modified": None, "e_tag": ""} for name in "ab"]]
    monkeypatch.setattr("obstore.list", lambda *_, **__: pages)
    with pytest.raises(InputError, match="which no folder can have"):
        Bucket(here).list(here)


@pytest.fixture
def google(tmp_path, monkeypatch) -> Iterator[Address]:
    with bucket_server.google() as endpoint:
        bucket_server.use("", tmp_path / "home", monkeypatch)
        monkeypatch.setenv("GOOGLE_BASE_URL", endpoint)
        monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "token")
        yield Address("gs", bucket_server.BUCKET, "RUN")


def test_conditions_and_copies_by_the_requests_of_google(google, another_process):
    """The server is a stand-in that was written from the documentation."""
    bucket = Bucket(google)
    first = bucket.create(google / "x", b"1")
    assert bucket.create(google / "x", b"another's") is None
    assert bucket.create(google / "x", b"1") == first
    second = bucket.replace(google / "x", b"2", first)
    assert bucket.replace(google / "x", b"3", first) is None
    assert bucket.get_version(google / "x") == (b"2", second)
    bucket.delete([google / "x", google / "x"])
    assert not bucket.has(google / "x")
    save(copies.for_writing(str(google)), 1, 2)
    another_process()
    assert newest_whole(copies.opened(str(google)) / "checkpoints") == (2, [])


def test_no_credentials_of_google(google, monkeypatch, tmp_path):
    with bucket_server.answering(403, "no") as metadata:
        monkeypatch.delenv("GOOGLE_BEARER_TOKEN")
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("HTTP_PROXY", metadata)  # in the place of the metadata server
        with pytest.raises(InputError, match="type `gcloud auth application-default login`"):
            copies.opened(str(google))


# Copies.


def test_a_copy_follows_the_bucket_and_the_bucket_the_copy(here, another_process):
    mine = copies.for_writing(str(here))
    (mine / "row.json").write_text("1")
    (mine / ".hidden").write_text("stays")
    copies.push(mine)
    another_process()
    theirs = copies.for_reading(str(here))
    assert theirs != mine
    assert {path.name: path.read_text() for path in theirs.iterdir()} == {"row.json": "1"}
    (mine / "row.json").write_text("22")
    bucket = Bucket(here)
    bucket.put(here / "row.json", b"22")
    copies.pull(theirs)
    assert (theirs / "row.json").read_text() == "22"
    copies.unlink(theirs / "row.json")
    assert not bucket.has(here / "row.json")
    bucket.put(here / "config.json", b"{}")
    copies.pull(theirs)
    bucket.delete([here / "config.json"])
    copies.pull(theirs)
    assert not [*theirs.iterdir()]


def test_only_what_changed_is_written_and_read(here, another_process, monkeypatch):
    mine = copies.for_writing(str(here))
    for name in ("a.json", "b.json"):
        (mine / name).write_text(name)
    copies.push(mine)
    put = []
    monkeypatch.setattr(Bucket, "put", lambda _, object, content: put.append(object.key) or "v")
    (mine / "b.json").write_text("longer")
    copies.push(mine)
    copies.push(mine)
    assert put == [(here / "b.json").key]


def test_a_row_is_written_after_the_other_files(here, monkeypatch):
    mine = copies.for_writing(str(here))
    order = []
    monkeypatch.setattr(Bucket, "put", lambda _, object, content: order.append(object.key.rpartition("/")[2]) or "")
    for name in ("row.json", "a.json", "z.parquet"):
        (mine / name).write_text("")
    copies.push(mine)
    assert order == ["a.json", "z.parquet", "row.json"]


def test_a_folder_of_the_file_system_is_left_alone(tmp_path):
    assert copies.opened(tmp_path) == copies.for_writing(tmp_path) == tmp_path
    (tmp_path / "x").write_text("")
    for do in (copies.push, copies.pull, copies.drop):
        do(tmp_path)
    assert copies.exists(tmp_path / "x")
    assert copies.copy_of(tmp_path) is None


# Checkpoints.

STATE = {"a": np.arange(30_000, dtype=np.float32)}


def save(folder, *steps: int) -> None:
    with Checkpoints(folder / "checkpoints", kept=1) as checkpoints:
        for step in steps:
            checkpoints.save(step, STATE | {"a": STATE["a"] + step}, {"step": step})


def test_a_checkpoint_is_one_object_that_another_process_goes_on_from(here, another_process):
    save(copies.for_writing(str(here)), 1, 2)
    assert [*Bucket(here).list(here)] == ["checkpoints/2.zip"]
    another_process()
    folder = copies.for_writing(str(here))
    with Checkpoints(folder / "checkpoints", kept=1) as checkpoints:
        state, progress = checkpoints.restore(_like())
    assert progress == {"step": 2}
    assert np.array_equal(state["a"], STATE["a"] + 2)


def _like():
    import jax

    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), STATE)


def test_a_kill_while_a_checkpoint_is_written_leaves_the_older_one(here, another_process, monkeypatch):
    folder = copies.for_writing(str(here))
    save(folder, 1)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(copies.Copy, "push_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            save(folder, 2)
    another_process()
    assert steps_in(copies.opened(str(here)) / "checkpoints") == [1]


def test_a_checkpoint_that_was_cut_is_reported_and_the_older_one_used(here, another_process, capsys):
    folder = copies.for_writing(str(here))
    with Checkpoints(folder / "checkpoints", kept=2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, STATE, {})
    bucket = Bucket(here)
    bucket.put(here / "checkpoints/2.zip", bucket.get(here / "checkpoints/2.zip")[:-60_000])
    another_process()
    assert newest_whole(copies.opened(str(here)) / "checkpoints") == (1, [2])
    assert "the checkpoint of step 2 is damaged" in capsys.readouterr().err


def test_a_bucket_that_goes_in_the_middle_of_a_run_leaves_the_checkpoint_before(here, another_process, monkeypatch):
    folder = copies.for_writing(str(here))
    save(folder, 1)

    def gone(*_):
        raise Unanswered("s3://tests could not be written: it is gone")

    monkeypatch.setattr(Bucket, "put", gone)
    with pytest.raises(OSError, match=r"the checkpoint of step 2 could not be written.*it is gone.*goes on from"):
        save(folder, 2)
