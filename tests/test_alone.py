"""Tests that a run says so while it waits for another process in its folder, and only then."""

from __future__ import annotations

import fcntl
import threading

import pytest

from sessionrec_jax import row


@pytest.mark.parametrize("quiet", [False, True])
def test_a_run_says_that_it_waits(tmp_path, monkeypatch, quiet):
    waits, said = threading.Event(), []
    locked = row.lock

    def lock(file, how):
        if how == fcntl.LOCK_EX:
            waits.set()
        return locked(file, how)

    monkeypatch.setattr(row, "lock", lock)
    monkeypatch.setattr(row, "say", said.append)

    def second():
        with row._alone_in(tmp_path, quiet=quiet):
            pass

    with row._alone_in(tmp_path, quiet=quiet):
        assert not said
        thread = threading.Thread(target=second)
        thread.start()
        assert waits.wait(60)
        assert thread.is_alive()
        assert said == ([] if quiet else [f"another process trains in {tmp_path}; waiting until it ends"])
    thread.join(60)
    assert not thread.is_alive()
