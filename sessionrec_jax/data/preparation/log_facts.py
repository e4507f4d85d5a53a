"""Facts about a whole log that are needed before any of it is cut: kinds, values, items, times, and reasons to refuse.

They are collected from typed rows part by part, on as many machines as read them.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping

import numpy as np
import polars as pl

from sessionrec_jax.data.session_log import EARLIEST_MS, LATEST_MS, OF_SESSION, UNIT_MS, TimeUnit, context_columns
from sessionrec_jax.errors import InputError

_UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_TIMES_A_PART = 4096
_MOST_PARTS = 32
_COARSE_MS, _DAY_MS = 1_000_000, 86_400_000


class LogFacts:
    """Facts about the rows that were added."""

    def __init__(self) -> None:
        self.rows = 0
        self.context_kinds: set[str] = set()
        self.session_context: dict[str, pl.Series] = {}
        """The values of each column of session context, sorted. The column session/NAME is called NAME."""
        self._reasons: list[pl.DataFrame] = []
        self._times: list[pl.Series] = []
        self._items: list[pl.Series] = []
        self._sound = self._clicks = self._context = 0
        self._first_ms, self._last_ms = LATEST_MS, EARLIEST_MS

    def add(self, part: pl.DataFrame) -> pl.DataFrame:
        """Adds rows from `session_log.type_rows`; returns the sound ones, without `reason`."""
        self.rows += len(part)
        self._times.append(part["timestamp_ms"].drop_nulls().gather_every(max(1, len(part) // _TIMES_A_PART)))
        self._reasons.append(part.filter(pl.col("reason").is_not_null()).select("row", "reason"))
        sound = part.filter(pl.col("reason").is_null()).drop("reason")
        self._sound += len(sound)
        self._clicks += int(sound["clicked"].sum() or 0)
        self._context += sound["clicked"].null_count()
        self.context_kinds.update(sound["feedback"].drop_nulls().unique())
        self._add_context({name.removeprefix(OF_SESSION): sound[name] for name in context_columns(sound.columns)})
        self._items.append(sound["item_id"].unique())
        if len(self._items) > _MOST_PARTS:
            self._items = [self.item_ids]
        if len(sound):
            time_N = sound["timestamp_ms"].to_numpy()
            self._first_ms = min(self._first_ms, int(time_N.min()))
            self._last_ms = max(self._last_ms, int(time_N.max()))
        return sound

    def merge(self, others: Iterable[LogFacts]) -> LogFacts:
        """Adds the facts of later rows; returns itself."""
        for other in others:
            self.rows += other.rows
            self.context_kinds |= other.context_kinds
            self._add_context(other.session_context)
            self._reasons += other._reasons
            self._times += other._times
            self._items += [pl.concat(other._items).unique()] if other._items else []
            self._sound += other._sound
            self._clicks += other._clicks
            self._context += other._context
            self._first_ms = min(self._first_ms, other._first_ms)
            self._last_ms = max(self._last_ms, other._last_ms)
        return self

    def _add_context(self, more: Mapping[str, pl.Series]) -> None:
        for name, values in more.items():
            known = self.session_context.get(name, values.clear())
            self.session_context[name] = pl.concat([known, values.drop_nulls().unique()]).unique().sort()

    def refuse(self, time_unit: TimeUnit = "ms", times: str | None = None, *, cuts_by_time: bool = False) -> None:
        """Raises InputError on an empty log, on times in another unit than `time_unit`, and on times that have lost
        their digits if sessions rest on them.

        `times` is that of sources.RawLog.
        """
        if not self.rows:
            raise InputError("the log is empty: it has columns and no row. Check the path and the filters before it")
        if len(sample := pl.concat(self._times)):
            _refuse_other_unit(float(np.median(sample.to_numpy())), time_unit, times)
            if cuts_by_time:
                _refuse_coarse(sample.to_numpy())

    def refuse_no_click(self) -> None:
        """Raises InputError on a log without a click."""
        if self._sound and not self._clicks:
            rejected = f"; {len(self.reasons):,} others were rejected" if len(self.reasons) else ""
            raise InputError(
                f"no exposure of the log is clicked ({self._sound:,} exposures, {self._context:,} of them context"
                f"{rejected}), so there is nothing to predict. Check which column holds the clicks"
            )

    @property
    def reasons(self) -> pl.DataFrame:
        """row, reason of the rows that are rejected."""
        return pl.concat(self._reasons)

    @property
    def item_ids(self) -> pl.Series:
        """The item ids of the sound rows, sorted."""
        return pl.concat(self._items).unique().sort()

    @property
    def time_range_ms(self) -> tuple[int, int]:
        return self._first_ms, self._last_ms

    def time_quantile_ms(self, q: float) -> int:
        """Returns an estimate from a sample of evenly spaced rows."""
        return int(np.quantile(pl.concat(self._times).to_numpy(), q, method="lower"))


def _refuse_coarse(times_ms: np.ndarray) -> None:
    """Raises InputError if all times are whole multiples of a thousand seconds: numbers such as 1.70123E+12, which a
    spreadsheet writes, have lost the rest. Whole days are another case: they were never more exact."""
    if len(np.unique(times_ms)) > 1 and not (times_ms % _COARSE_MS).any() and (times_ms % _DAY_MS).any():
        raise InputError(
            "all times are whole multiples of 1,000 s, so they seem to have lost their last digits (1.70123E+12 is how "
            "a spreadsheet writes them), and sessions cannot be cut by them. Export the times as whole numbers or as "
            "text, or name a column of sessions"
        )


def _refuse_other_unit(median_ms: float, read_as: TimeUnit, times: str | None) -> None:
    if EARLIEST_MS <= median_ms <= LATEST_MS:
        return
    median = median_ms / UNIT_MS[read_as]
    for unit, factor in UNIT_MS.items():
        if EARLIEST_MS <= median * factor <= LATEST_MS:
            date = datetime.datetime.fromtimestamp(median * factor / 1e3, datetime.UTC).date()
            cure = f"Give the unit (--time-unit {unit})"
            if times is not None:
                by = factor / UNIT_MS[read_as]
                cure = f"Multiply {times} by {by:.0f}" if by > 1 else f"Divide {times} by {1 / by:.0f}"
            raise InputError(
                f"the times do not look like {_UNIT_NAMES[read_as]}: the median is {median:.0f}, which is {date} when "
                f"read as {unit}. {cure}"
            )
