"""The rules by which rows of a table are left out, each with its reason, and the values that no row may have.

What a run cannot help (it died, it lost to the baseline, it is a checkpoint) excludes it. What a user must put right
raises InputError.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from scaling.errors import InputError
from scaling.table.columns import Columns, numbers

SMALLEST, LARGEST = 1e-60, 1e60
"""No unit makes a count or a loss smaller or larger, and products of three still fit a float64."""
SCHEDULE_SLACK = 1e-9
NO_ROW = "no row yet"
"""The rule by which a sweep's runs are left out that are planned or under way."""
_CORRECT = "Correct the row, or mark it with a status other than 'done'."


@dataclass(frozen=True)
class Excluded:
    """A row that no fit sees: which, by which rule, and the particulars."""

    row: str
    rule: str
    reason: str


class Rules:
    """Applies the rules in order; `keep` [R] is what is left after them.

    Raises InputError on values that are not numbers, or that no law can take, in rows that are kept.
    """

    def __init__(self, frame: pl.DataFrame, columns: Columns, row_id: list[str], drop_worst: int):
        self.frame, self.columns, self.row_id = frame, columns, row_id
        self.keep = np.ones(len(frame), bool)
        self.excluded: list[Excluded] = []
        self._not_done()
        self._copies()
        self.loss = None if columns.loss is None else self._present("loss", columns.loss)
        self.metric = None if columns.metric is None else self._present("metric", columns.metric)
        if columns.progress is not None:
            self._before_the_end()
        if self.loss is not None:
            self.positive(columns.loss, self.loss)
        if self.metric is not None:
            self._between_0_and_1(columns.metric, self.metric)
        if columns.baseline is not None:
            self._baseline()
        if columns.select_by is not None:
            self._tuned_best()
        if drop_worst:
            self._worst(drop_worst)

    def numbers(self, name: str) -> np.ndarray:
        return numbers(self.frame, name, self.row_id)

    def drop(self, where: np.ndarray | list[bool], rule: str, reason: Callable[[int], str]) -> None:
        hit = np.flatnonzero(self.keep & np.asarray(where, bool))
        self.excluded += [Excluded(self.row_id[i], rule, reason(i)) for i in hit]
        self.keep[hit] = False

    def positive(self, name: str, values: np.ndarray, missing: bool = False) -> None:
        """Raises InputError unless the kept rows' values are numbers above 0; `missing`: NaN is allowed."""
        allowed = (values >= SMALLEST) & (values <= LARGEST) | (missing & np.isnan(values))
        wanted = f"a power law wants finite numbers above 0 ({SMALLEST:g} to {LARGEST:g}). {_CORRECT}"
        self._insist(allowed, name, values, wanted)

    def _insist(self, holds: np.ndarray, name: str, values: np.ndarray, wanted: str) -> None:
        wrong = self.keep & ~holds
        if wrong.any():
            at = int(np.argmax(wrong))
            raise InputError(f"column {name!r} is {values[at]:g} in {self.row_id[at]}; {wanted}")

    def _not_done(self) -> None:
        if "status" in self.frame.columns:
            status = self.frame["status"].to_list()
            self.drop([s != "done" for s in status], "not done", lambda i: f"status is {status[i]!r}")

    def _copies(self) -> None:
        first: dict[str, int] = {}
        # by repr: cells may hold lists, and NaN is not equal to itself
        of = [first.setdefault(repr(row), i) for i, row in enumerate(self.frame.iter_rows())]
        copy = np.array(of) != np.arange(len(of))
        # by number: a copy has the name of its original
        self.drop(copy, "a copy of an earlier row", lambda i: f"row {i + 1} equals row {of[i] + 1} in every column")

    def _present(self, what: str, name: str) -> np.ndarray:
        values = self.numbers(name)
        self.drop(~np.isfinite(values), f"no {what}", lambda i: f"{name} is {values[i]:g}")
        return values

    def _before_the_end(self) -> None:
        name = self.columns.progress
        done = self.numbers(name)
        wanted = (
            "wanted the fraction of the schedule that is done, 0 to 1: divide percent by 100, and steps by all steps."
        )
        self._insist(~(done > 1 + SCHEDULE_SLACK), name, done, wanted)
        self.drop(done < 1 - SCHEDULE_SLACK, "before the end of its schedule", lambda i: f"{name} is {done[i]:.10g}")

    def _between_0_and_1(self, name: str, values: np.ndarray) -> None:
        percent = bool(np.any(self.keep & (values > 1) & (values <= 100)))
        cure = "It looks like percent: divide the column by 100." if percent else _CORRECT
        wanted = f"a metric is fitted where it is above 0 and below 1. {cure}"
        self._insist((values >= SMALLEST) & (values < 1), name, values, wanted)

    def _baseline(self) -> None:
        name, own = self.columns.baseline, self.columns.response
        baseline, values = self.numbers(name), self.metric if self.loss is None else self.loss
        self.positive(name, baseline)
        beaten = values > baseline if self.loss is None else values < baseline
        self.drop(~beaten, "does not beat the baseline", lambda i: f"{own} {values[i]:.6g}, {name} {baseline[i]:.6g}")

    def _tuned_best(self) -> None:
        by = self.columns.select_by
        value = self.numbers(by)
        self.drop(np.isnan(value), "no value to tune by", lambda i: f"{by} is missing")
        cells = [repr(cell) for cell in self.frame.select(list(self.columns.select_within)).iter_rows()]
        best: dict[str, int] = {}
        for i in np.flatnonzero(self.keep):
            if cells[i] not in best or value[i] < value[best[cells[i]]]:
                best[cells[i]] = i

        def reason(i: int) -> str:
            chosen = best[cells[i]]
            return f"{by} {value[i]:.6g} against {value[chosen]:.6g} of {self.row_id[chosen]}"

        self.drop(~np.isin(np.arange(len(value)), list(best.values())), "not the tuned best of its cell", reason)

    def _worst(self, count: int) -> None:
        values, kind = (self.metric, "lowest metrics") if self.loss is None else (self.loss, "highest losses")
        badness = -values if self.loss is None else values
        order = np.argsort(np.where(self.keep, -badness, np.inf), kind="stable")
        worst = np.isin(np.arange(len(self.keep)), order[:count])
        name = self.columns.response
        self.drop(worst, f"among the {count} {kind}", lambda i: f"{name} is {values[i]:.6g}")
