"""What the columns of a table are called, and the numbers in them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import polars as pl

from scaling.errors import InputError, near_miss


@dataclass(frozen=True)
class Columns:
    """What the columns of a table are called. One of `loss` and `metric` must be there, and one of `d` and `flops`
    unless both `loss` and `metric` are."""

    loss: str | None = None
    """Held-out loss, in nats."""
    metric: str | None = None
    """A value above 0 and below 1, the higher the better, such as recall_at_500."""
    d: str | None = None
    """Data: sessions, tokens or whatever the law counts."""
    n: str | None = None
    """Parameters."""
    unique: str | None = None
    """The distinct data behind `d`. Default: `sessions_unique` where `d` is `sessions_seen` and the table has it."""
    flops: str | None = None
    """Training FLOPs C. In a table without `d`, D = C / (6 N); beside `d` they tell C / (N D)."""
    baseline: str | None = None
    """Loss (or metric, where no loss is named) of a trivial predictor on the same data; runs that do not beat it are
    excluded."""
    floor: str | None = None
    """The known irreducible loss: one number, repeated in every row."""
    progress: str | None = None
    """Fraction of its schedule, 0 to 1, that a row has done; rows before the end are excluded. Default:
    `schedule_fraction` where the table has it."""
    cluster: str | None = None
    """Rows of one cluster are not independent: the bootstrap draws them together."""
    run_id: str | None = None
    """Names a row in messages. Default: `run_id` where the table has it, else the row's number."""
    seed: str | None = None
    """Default: `seed` where the table has it."""
    select_by: str | None = None
    """Tuned runs: of each cell of `select_within` only the row with the lowest value of this column stays."""
    select_within: tuple[str, ...] = ()
    recipe: tuple[str, ...] = ()
    """Columns that must not vary, beside those of `checks.RECIPE`."""

    @property
    def response(self) -> str:
        """What is fitted as a loss: the loss column, else the metric column."""
        return self.loss or self.metric


def flag(field: str) -> str:
    """The command line's name of a field of Columns."""
    return "--floor-column" if field == "floor" else f"--{field.replace('_', '-')}"


def resolve(frame: pl.DataFrame, columns: Columns, source: str) -> Columns:
    """`columns` with its defaults filled in. Raises InputError for columns that are not there, or do not suffice."""
    for field in dataclasses.fields(columns):
        value = getattr(columns, field.name)
        for name in (value,) if isinstance(value, str) else value or ():
            if name not in frame.columns:
                raise InputError(
                    f"{source} has no column {name!r} ({flag(field.name)}); {near_miss(name, frame.columns)}"
                )
    if columns.loss is None and columns.metric is None:
        raise InputError("nothing to fit is named; name the loss column with --loss, or a metric with --metric")
    if columns.d is None and columns.flops is None and (columns.loss is None or columns.metric is None):
        raise InputError(
            "name the data column with --d, or training FLOPs with --flops; only a metric against the loss "
            "(--metric and --loss) needs neither"
        )
    if columns.flops is not None and columns.n is None:
        raise InputError("--flops is read as D = C / (6 N), or C / (N D) beside --d, and so needs --n")
    if columns.unique is not None and columns.d is None:
        raise InputError("--unique tells how much of D is distinct, and so needs --d")
    if (columns.select_by is None) != (not columns.select_within):
        raise InputError("--select-by and --select-within go together: what is tuned, and within which cells")
    defaults = {"run_id": "run_id", "seed": "seed", "progress": "schedule_fraction"}
    if columns.d == "sessions_seen":
        defaults["unique"] = "sessions_unique"
    found = {
        field: name for field, name in defaults.items() if getattr(columns, field) is None and name in frame.columns
    }
    return dataclasses.replace(columns, **found)


def row_ids(frame: pl.DataFrame, columns: Columns) -> list[str]:
    """What each row is called in messages."""
    if columns.run_id is None:
        return [f"row {i + 1}" for i in range(len(frame))]
    return [f"row {i + 1}" if name is None else str(name) for i, name in enumerate(frame[columns.run_id])]


def numbers(frame: pl.DataFrame, name: str, row_id: list[str]) -> np.ndarray:
    """[R] float64, null as NaN. Raises InputError on anything but a number, with the row and the value."""
    column = frame[name]
    if column.dtype.is_numeric() or column.dtype in (pl.String, pl.Null):
        values = column.cast(pl.Float64, strict=False)
        bad = values.is_null() & column.is_not_null()
    else:
        bad = column.is_not_null()
        values = pl.repeat(None, len(frame), dtype=pl.Float64, eager=True)
    if bad.any():
        at = bad.arg_max()
        raise InputError(f"column {name!r} wants numbers; {row_id[at]} has {column[at]!r}")
    return values.fill_null(np.nan).to_numpy().astype(np.float64)
