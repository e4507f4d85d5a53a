"""Rejected rows: written with their reasons, and the reason to stop when there are too many."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from sessionrec_jax.data import session_log
from sessionrec_jax.data.sources import RawLog
from sessionrec_jax.data.sources.files import reading
from sessionrec_jax.errors import InputError

_CURES = {
    session_log.LONG_SESSION: ", see --max-session-items and --session-rule",
    session_log.NOT_A_TIME: ", is it the right column?",
    session_log.NOT_BOOLEAN: ", wanted true/false or 0/1",
    session_log.NOT_A_PROBABILITY: ", leave the column empty where a row has no probability",
    session_log.NO_CATEGORY: ", see --session-context; put numbers with fractions into buckets first",
    session_log.UNKNOWN_ITEM: ", is it the right item table?",
    session_log.STRADDLES: ", see --validation-from and --test-from",
}


def refuse_many(raw: RawLog, reasons: pl.DataFrame, *, rows: int, limit: float, folder: Path, out: Path) -> None:
    """Raises InputError if too many of the rows are rejected; then it leaves them in `path_of(out)`.

    A label that is no probability is never allowed: the values outside [0, 1] are often the largest ones. Two kinds do
    not count as breaches of the contract: an exact duplicate, whose first copy stays, and a row that its source
    declares to leave out.
    """
    breaches = reasons.filter(pl.col("reason").is_in(session_log.BREACHES))
    left_out = len(reasons) - len(breaches) - int((reasons["reason"] == session_log.DUPLICATE).sum())
    fraction = len(breaches) / max(rows - left_out, 1)
    bad_labels = int((reasons["reason"] == session_log.NOT_A_PROBABILITY).sum())
    if fraction <= limit and len(reasons) < rows and not bad_labels:
        return
    write(raw, reasons, folder / "rejected.parquet")
    kept = (folder / "rejected.parquet").replace(path_of(out))
    problem = f"{fraction:.1%} of {rows:,} rows break the contract, more than the allowed {limit:.1%}"
    if bad_labels:
        problem = f"{bad_labels:,} of {rows:,} rows have a wrong label, and without them the others would be biased"
    elif fraction <= limit:
        problem, breaches = f"none of {rows:,} rows is left", reasons
    by_reason = breaches.group_by("reason").len().sort(-pl.col("len").cast(pl.Int64), "reason")
    unit = f", is a part of {raw.times} in another unit?" if raw.times else ", are all files in --time-unit?"
    cures = _CURES | {session_log.ABSURD_TIME: unit}
    counts = "; ".join(f"{reason}: {count:,}{cures.get(reason, '')}" for reason, count in by_reason.iter_rows())
    allow = ""
    if limit < fraction < 1 and not bad_labels:
        allow = f", or allow them with --max-rejected-fraction {np.ceil(fraction * 100) / 100:.2f}"
    raise InputError(f"{problem} ({counts}). They are in {kept}. Put them right{allow}")


def write(raw: RawLog, reasons: pl.DataFrame, path: Path) -> None:
    """Writes the rejected rows as the source read them, and a column `reason`."""
    exposures = raw.exposures.lazy()
    if reasons.is_empty():
        exposures.clear().with_columns(reason=pl.lit(None, pl.String)).collect().write_parquet(path)
        return
    with reading(raw.source):
        numbered = exposures.with_row_index("row").join(reasons.lazy(), on="row", maintain_order="left")
        numbered.drop("row").sink_parquet(path)


def path_of(out: Path) -> Path:
    """Returns the path of the rejected rows of a preparation that failed."""
    return out.resolve().with_name(f"{out.name}.rejected.parquet")
