"""Progress lines: the time that is left is that of steps, without the compilation before the first one."""

from __future__ import annotations

from sessionrec_jax.runfolder import progress


def test_the_time_left_is_without_compilation(monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.Bar("train", 100) as bar:
        now = 60.0  # the first step compiles for a minute
        bar.advance("")
        now = 80.0  # the next ten take two seconds each
        bar.advance("loss 3.2", 10)
    assert capsys.readouterr().err.splitlines() == ["train 1/100", "train 11/100, 178 s left, loss 3.2"]


def test_a_quiet_bar_prints_nothing(monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.Bar("train", 2, quiet=True) as bar:
        now = 60.0
        bar.advance("loss 3.2")
    assert not capsys.readouterr().err
