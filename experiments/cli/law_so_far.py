"""The law through the runs of a sweep that are done so far, and how its intervals narrow as runs come."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

import scaling
from experiments.cli.fit_flags import FitFlags
from experiments.cli.fit_options import asked
from scaling.errors import InputError, Refusal

BOOTSTRAP = 200
"""Resamplings behind the intervals. `sessionrec fit` takes more, and also profiles and held-out checks."""
_FEWEST, _STEP = 3, 1.25
"""A law is fitted to the first 3, 4, 5, 7, 9, ... runs, in the order in which they ended, and to all."""


class FitSoFar(NamedTuple):
    """The law through the first `runs` runs that ended."""

    runs: int
    fit: scaling.Fit | Refusal


class LawSoFar:
    """Fits the law of a sweep again when rows have come. A fit is made once for the same runs."""

    def __init__(self, sweep: Path):
        self._sweep = sweep
        self._made: dict[tuple[str, ...], scaling.Fit | Refusal] = {}

    def fits(self) -> list[FitSoFar]:
        """Returns the fits to the first runs and to all of them; the last one is the law so far.

        Raises InputError, with the reason, if the sweep's plan has no law or no run can be fitted yet.
        """
        table, (law, *_), options = asked(self._sweep, FitFlags(bootstrap=BOOTSTRAP))
        if law is None:
            raise InputError("this plan is for no law")
        order = np.argsort([self._ended(run) for run in table.row_id], kind="stable")
        names = [table.row_id[place] for place in order]
        found = []
        for count in _counts(len(order)):
            key = tuple(names[:count])
            if key not in self._made:
                first = np.isin(np.arange(len(table)), order[:count])
                self._made[key] = _fitted(table.take(first), law, options)
            found.append(FitSoFar(count, self._made[key]))
        return found

    def _ended(self, run: str) -> float:
        """Returns the time when the row of a run was written, in seconds since 1970."""
        path = self._sweep / "runs" / run / "row.json"
        return path.stat().st_mtime if path.exists() else 0.0


def _counts(runs: int) -> list[int]:
    found, count = [], _FEWEST
    while count < runs:
        found.append(count)
        count = max(count + 1, round(count * _STEP))
    return [*found, runs] if runs else []


def _fitted(table: scaling.RunTable, law: str | None, options: dict) -> scaling.Fit | Refusal:
    try:
        return scaling.fit(table, law, **options, full=False)
    except Refusal as refusal:
        return refusal
