"""Preparation through Apache Beam: several workers write what one machine writes."""

from __future__ import annotations

import sys
from typing import ClassVar

import polars as pl
import pytest
from contract import assert_same_log
from test_prepare_cli import HOUR_MS, NOW_MS, log

from experiments.__main__ import main
from sessionrec_jax.data import store
from sessionrec_jax.data.preparation import prepare as preparation
from sessionrec_jax.data.preparation.beam import Beam
from sessionrec_jax.errors import InputError

pytest.importorskip("apache_beam")
pytestmark = pytest.mark.filterwarnings("ignore")  # warnings of Beam and of its dependencies

WORKERS = ("runner=DirectRunner", "direct_num_workers=2", "direct_running_mode=multi_processing")


def dirty() -> pl.DataFrame:
    """Makes a log with duplicates, null ids, missing times, a session too long, and devices that a worker reads
    alone."""
    rows = [("u1", f"i{n}", NOW_MS + 9 * HOUR_MS + n, 1) for n in range(600)]
    odd = [(None, "i1", NOW_MS, 1), ("u1", "i1", 5, 0), ("u3", None, NOW_MS, 0)]
    more = pl.DataFrame([*rows, *odd], schema=log().schema, orient="row")
    rows = pl.concat([log(), more, log()[:50]])
    number = pl.int_range(pl.len())
    return rows.with_columns(device=pl.when(number // 5 % 3 > 0).then(number // 7 % 90))


class Watched(Beam):
    """Records the files next to the log while the results of a call are taken."""

    beside: ClassVar[set[str]] = set()

    def __call__(self, function, values):
        for result in super().__call__(function, values):
            self.beside.update(path.name for path in self._shared.parent.iterdir())
            yield result


@pytest.mark.slow
def test_beam_with_several_workers_writes_what_one_machine_writes(tmp_path, monkeypatch, capfd):
    dirty().write_csv(tmp_path / "log.csv")
    monkeypatch.setattr(preparation, "_ROWS_CUT", 200)
    monkeypatch.setattr("sessionrec_jax.serving.prepare._ROWS_PER_BEAM_CALL", 400)
    monkeypatch.setattr("sessionrec_jax.serving.prepare.Beam", Watched)
    Watched.beside.clear()
    table = ["prepare", "table", "--exposures", str(tmp_path / "log.csv"), "--max-rejected-fraction", "0.5"]
    table += ["--session-context", "device", "--session-time", "hour_of_day"]
    assert main([*table, "--out", str(tmp_path / "here")]) == 0
    assert main([*table, "--out", str(tmp_path / "there"), "--beam", *WORKERS]) == 0
    here, there = (store.open_log(tmp_path / name) for name in ("here", "there"))
    assert len(list((there.path / "log").glob("*.array_record*"))) > 2
    assert set(there.manifest["rejected"]) >= {"exact duplicate", "null id", "past the session's longest length"}
    device, hour = there.manifest["session_context"]
    assert min(device[of] for of in ("values", "missing", "out_of_vocabulary", "differing")) > 0
    assert hour["values"] == 3
    assert_same_log(there, here)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "log.csv", "there"]
    assert {".there.partial", "here", "log.csv"} == Watched.beside  # the next preparation removes a killed one's files


def refuse(value: int) -> int:
    if value == 2:
        raise InputError("not this one")
    return value


def test_an_error_of_a_worker_is_reported(tmp_path):
    engine = Beam(["runner=DirectRunner"], tmp_path)
    assert list(engine(refuse, [0, 1])) == [0, 1]
    with pytest.raises(InputError, match="not this one"):
        list(engine(refuse, [0, 1, 2]))
    assert list(tmp_path.iterdir()) == []


def test_wrong_options_and_a_missing_beam_are_reported(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"Beam does not take the options runner=Nowhere"):
        Beam(["runner=Nowhere"], tmp_path)
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(InputError, match=r"pip install 'sessionrec-jax\[beam\]'"):
        Beam([], tmp_path)
