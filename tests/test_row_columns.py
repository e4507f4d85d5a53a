"""The columns of a run's row: a real row has exactly the documented ones, of the documented types."""

from __future__ import annotations

import pytest
from grid import mostly_slow

from sessionrec_jax.config.values import replace
from sessionrec_jax.row import run
from sessionrec_jax.row_columns import DONE, EVERY_ROW, FAILURE, FIT, FIT_RANK

TYPES = {"str": str, "int": int, "float": (float, int)}


def check(row: dict, columns: tuple) -> None:
    documented = {column.name: column for column in columns}
    assert len(documented) == len(columns)
    assert set(row) == set(documented)
    for name, value in row.items():
        column = documented[name]
        assert column.meaning
        assert column.optional if value is None else isinstance(value, TYPES[column.type]), name


@pytest.mark.parametrize(
    "changes", mostly_slow([{}, {"loss.alpha": 0.0, "loss.retrieval": "full_softmax"}], quick=[{}])
)
def test_a_row_has_exactly_the_documented_columns(config, tmp_path, changes):
    row = run(replace(config, changes), tmp_path / "run", "train", quiet=True)
    assert row["status"] == "done"
    check(row, EVERY_ROW + DONE)


def test_a_diverged_row_has_a_reason_and_no_measured_column(config, tmp_path):
    row = run(replace(config, {"optim.learning_rate_peak": 1e3}), tmp_path / "run", "train", quiet=True)
    assert row["status"] == "diverged"
    check(row, (*EVERY_ROW, *(column for column in FAILURE if column.name == "reason")))


def test_a_fit_reads_documented_columns():
    names = {column.name for column in EVERY_ROW + DONE}
    assert {*FIT.values(), *FIT_RANK.values()} <= names
