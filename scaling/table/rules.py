"""The rules that exclude rows of a table, each with its reason, and the values that no row may have.

A run is excluded for what it cannot help: it died, it lost to the baseline, it is a checkpoint. What a user must put
right raises InputError.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl

from scaling.errors import InputError
from scaling.table.columns import Columns, numbers

SMALLEST, LARGEST = 1e-60, 1e60
"""No unit makes a count or a loss smaller or larger, and products of three still fit a float64."""
SCHEDULE_SLACK = 1e-9
LOST = "does not beat the baseline"
NO_ROW = "no row yet"
"""The rule that lists runs of a sweep which are planned or under way."""
_CORRECT = "Correct the row, or mark it with a status other than 'done'."


@dataclass(frozen=True)
class Excluded:
    """A row that no fit sees, the rule that excludes it, and the particulars."""

    row: str
    rule: str
    reason: str


def by_rule(rows: Iterable[Excluded]) -> dict[str, int]:
    """Returns {rule: the number of rows that it excludes}."""
    return dict(Counter(row.rule for row in rows))


class Exclusions:
    """Applies the rules in order; `keep` [R] marks the rows that remain.

    Raises InputError on values of kept rows that are not numbers, or that no law can take.
    """

    def __init__(self, frame: pl.DataFrame, columns: Columns, row_id: list[str], drop_worst: int):
        self.frame, self.columns, self.row_id = frame, columns, row_id
        self.keep = np.ones(len(frame), bool)
        self._excluded: dict[int, Excluded] = {}
        self._not_done()
        self._copies()
        self.loss = self._present("loss", columns.loss)
        self.metric = self._present("metric", columns.metric)
        self._before_the_end()
        if columns.loss is not None and self.loss is not None:
            self.positive(columns.loss, self.loss)
        if columns.metric is not None and self.metric is not None:
            self._between_0_and_1(columns.metric, self.metric)
        self._baseline()
        self._tuned_best()
        if drop_worst:
            self._worst(drop_worst)

    @property
    def excluded(self) -> tuple[Excluded, ...]:
        """The excluded rows in the order of the table."""
        return tuple(self._excluded[i] for i in sorted(self._excluded))

    def numbers(self, name: str) -> np.ndarray:
        return numbers(self.frame, name, self.row_id)

    def positive(self, name: str, values: np.ndarray, missing: bool = False) -> None:
        """Raises InputError unless the kept rows' values are numbers above 0, or, with `missing`, NaN."""
        allowed = (values >= SMALLEST) & (values <= LARGEST) | (missing & np.isnan(values))
        wanted = f"a power law wants finite numbers above 0 ({SMALLEST:g} to {LARGEST:g}). {_CORRECT}"
        self._insist(allowed, name, values, wanted)

    def _drop(self, where: np.ndarray | list[bool], rule: str, reason: Callable[[int], str]) -> None:
        hit = np.flatnonzero(self.keep & np.asarray(where, bool))
        self._excluded |= {i: Excluded(self.row_id[i], rule, reason(i)) for i in hit.tolist()}
        self.keep[hit] = False

    def _insist(self, holds: np.ndarray, name: str, values: np.ndarray, wanted: str) -> None:
        wrong = self.keep & ~holds
        if wrong.any():
            at = int(np.argmax(wrong))
            raise InputError(f"column {name!r} is {values[at]:g} in {self.row_id[at]}; {wanted}")

    def _not_done(self) -> None:
        if "status" in self.frame.columns:
            status = self.frame["status"].to_list()
            self._drop([s != "done" for s in status], "not done", lambda i: f"status is {status[i]!r}")

    def _copies(self) -> None:
        first: dict[str, int] = {}
        # by repr: cells may hold lists, and NaN is not equal to itself
        original = [first.setdefault(repr(row), i) for i, row in enumerate(self.frame.iter_rows())]
        copy = np.array(original) != np.arange(len(original))

        def reason(i: int) -> str:  # by number: a copy has the name of its original
            return f"row {i + 1} equals row {original[i] + 1} in every column"

        self._drop(copy, "a copy of an earlier row", reason)

    def _present(self, what: str, name: str | None) -> np.ndarray | None:
        if name is None:
            return None
        values = self.numbers(name)
        self._drop(~np.isfinite(values), f"no {what}", lambda i: f"{name} is {values[i]:g}")
        return values

    def _before_the_end(self) -> None:
        name = self.columns.progress
        if name is None:
            return
        done = self.numbers(name)
        wanted = (
            "wanted the fraction of the schedule that is done, 0 to 1: divide percent by 100, and steps by all steps."
        )
        self._insist(~(done > 1 + SCHEDULE_SLACK), name, done, wanted)
        self._drop(done < 1 - SCHEDULE_SLACK, "before the end of its schedule", lambda i: f"{name} is {done[i]:.10g}")

    def _between_0_and_1(self, name: str, values: np.ndarray) -> None:
        percent = bool(np.any(self.keep & (values > 1) & (values <= 100)))
        cure = "It looks like percent: divide the column by 100." if percent else _CORRECT
        wanted = f"a metric is fitted where it is above 0 and below 1. {cure}"
        self._insist((values >= SMALLEST) & (values < 1), name, values, wanted)

    def _badness(self) -> np.ndarray:
        """The values [R] that are fitted, the higher the worse: the loss, else minus the metric."""
        if self.loss is not None:
            return self.loss
        assert self.metric is not None, "columns.resolve asks for one of them"
        return -self.metric

    def _baseline(self) -> None:
        name, own = self.columns.baseline, self.columns.response
        if name is None:
            return
        baseline, badness = self.numbers(name), self._badness()
        self.positive(name, baseline)
        beaten = badness < (baseline if self.loss is not None else -baseline)
        values = np.abs(badness)
        self._drop(~beaten, LOST, lambda i: f"{own} {values[i]:.6g}, {name} {baseline[i]:.6g}")

    def _tuned_best(self) -> None:
        by = self.columns.select_by
        if by is None:
            return
        value = self.numbers(by)
        self._drop(np.isnan(value), "no value to tune by", lambda i: f"{by} is missing")
        cells = [repr(cell) for cell in self.frame.select(list(self.columns.select_within)).iter_rows()]
        best: dict[str, int] = {}
        for i in np.flatnonzero(self.keep).tolist():
            if cells[i] not in best or value[i] < value[best[cells[i]]]:
                best[cells[i]] = i

        def reason(i: int) -> str:
            chosen = best[cells[i]]
            return f"{by} {value[i]:.6g} against {value[chosen]:.6g} of {self.row_id[chosen]}"

        self._drop(~np.isin(np.arange(len(value)), list(best.values())), "not the tuned best of its cell", reason)

    def _worst(self, count: int) -> None:
        badness, name = self._badness(), self.columns.response
        order = np.argsort(np.where(self.keep, -badness, np.inf), kind="stable")
        worst = np.isin(np.arange(len(self.keep)), order[:count])
        kind = "lowest metrics" if self.loss is None else "highest losses"
        self._drop(worst, f"among the {count} {kind}", lambda i: f"{name} is {abs(badness[i]):.6g}")
