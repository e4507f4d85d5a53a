"""Tests that nobody else is let in: temporary folders are this user's, and programs are read from private folders."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hostile import begin_sweep, finish, sessionrec

from doors import private
from doors.private import COMPILE_CACHE, check_compile_cache, check_private, is_private, make_private, own_folder
from experiments.sweep.worker import work
from sessionrec_jax.errors import InputError


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """The temporary directory, which everybody can write, as /tmp is."""
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    monkeypatch.setattr(tempfile, "tempdir", str(shared))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return shared


def test_a_folder_in_the_temporary_directory_is_this_user_s_alone(temporary):
    folder = own_folder("cores")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    assert own_folder("cores") == folder
    assert is_private(folder)


@pytest.mark.parametrize("trap", ["link", "folder of another mode", "file"])
def test_what_somebody_else_put_there_is_not_used(trap, temporary, tmp_path):
    place = temporary / f"sessionrec-{os.getuid()}"
    victim = tmp_path / "victim"
    victim.mkdir()
    if trap == "link":
        place.symlink_to(victim)
    elif trap == "file":
        place.touch()
    else:
        place.mkdir()
        place.chmod(0o777)
    with pytest.raises(InputError, match="somebody else may have put it there"):
        own_folder("cores")
    assert not list(victim.iterdir())


def test_a_folder_of_another_user_is_not_used(temporary, monkeypatch):
    own_folder("cores")
    monkeypatch.setattr(private, "_user", lambda: os.getuid() + 1)
    with pytest.raises(InputError):
        make_private(temporary / f"sessionrec-{os.getuid()}")


def test_the_runtime_directory_is_taken_where_there_is_one(temporary, tmp_path, monkeypatch):
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    assert own_folder("cores").is_relative_to(runtime)
    runtime.chmod(0o777)
    assert own_folder("cores").is_relative_to(temporary)


@pytest.mark.parametrize(("mode", "private_"), [(0o700, True), (0o755, True), (0o757, False), (0o1777, False)])
def test_a_folder_that_others_can_write_is_refused(mode, private_, tmp_path):
    folder = tmp_path / "jobs"
    folder.mkdir()
    folder.chmod(mode)
    assert is_private(folder) == private_
    if not private_:
        with pytest.raises(InputError, match="everybody can write into"):
            check_private(folder, "pickles")
    inner = folder / "inner"
    inner.mkdir()
    assert is_private(inner) == (private_ or mode == 0o1777)  # in a sticky folder nobody can replace another's


def test_a_group_s_folder_is_refused_unless_the_group_is_this_user_s_own(tmp_path, monkeypatch):
    folder = tmp_path / "jobs"
    folder.mkdir()
    folder.chmod(0o775)
    monkeypatch.setattr(private, "_is_own_group", lambda _: False)
    with pytest.raises(InputError, match="a group can write into"):
        check_private(folder, "pickles")
    monkeypatch.setattr(private, "_is_own_group", lambda _: True)
    check_private(folder, "pickles")


def test_compiled_programs_are_not_read_from_a_sweep_that_others_can_write(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv(COMPILE_CACHE)
    begin_sweep(tmp_path / "S")
    (tmp_path / "S").chmod(0o777)
    work(tmp_path / "S", finish)
    assert "compiles its programs itself" in capsys.readouterr().err
    assert COMPILE_CACHE not in os.environ


def test_a_compile_cache_that_others_can_write_is_refused(tmp_path, monkeypatch, capsys):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    monkeypatch.setenv(COMPILE_CACHE, str(tmp_path / "cache"))
    with pytest.raises(InputError, match=COMPILE_CACHE):
        check_compile_cache()
    assert sessionrec(f"train {tmp_path} --out {tmp_path / 'RUN'}") == 2
    assert "everybody can write" in capsys.readouterr().err
    monkeypatch.setenv(COMPILE_CACHE, "gs://bucket/cache")
    check_compile_cache()
