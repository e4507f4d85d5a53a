"""From a raw log to a prepared folder: check, map ids, cut sessions, give roles, code side information, write.

`prepare` is the pipeline from top to bottom; the folder's format is told in store.py, the rules in sessionlog.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from sessionrec_jax.data import sessionlog, store, tables
from sessionrec_jax.data.sessionlog import Split
from sessionrec_jax.data.sources import RawLog
from sessionrec_jax.errors import InputError

_DEFAULT_HELD_OUT_USERS = (10, 2_000)  # one in ten, at most two thousand, for validation and for test
_CURES = {
    sessionlog.LONG_SESSION: ", see --max-session-items and --session-rule",
    sessionlog.ABSURD_TIME: ", is a file in another unit?",
    sessionlog.NOT_A_TIME: ", is it the right column?",
    sessionlog.NOT_BOOLEAN: ", wanted true/false or 0/1",
    sessionlog.UNKNOWN_ITEM: ", is it the right item table?",
    sessionlog.STRADDLES: ", see --validation-from and --test-from",
}


@dataclass(frozen=True)
class Settings:
    """How a raw log becomes a prepared one."""

    split: Split | None = None
    """Which sessions train, validate and test. Left out: the source's own."""
    session_rule: str | None = None
    """same_timestamp or gap_minutes=30, for a log without session ids. Left out: the source's own."""
    max_session_items: int = 512
    """Longest session in exposures; what is past it is rejected."""
    max_rejected_fraction: float = 0.01
    """Preparation stops where more of the rows than this break the contract; exact duplicates do not count."""
    validation_from: str | None = None
    """temporal: first moment of the validation period, ISO 8601 (UTC where it names no zone)."""
    test_from: str | None = None
    """temporal: first moment of the test period."""
    validation_users: int | None = None
    """held_out_users: how many users validate. Left out: one in ten, at most 2,000."""
    test_users: int | None = None
    """held_out_users: how many users test."""


def prepare(
    raw: RawLog,
    out: Path,
    settings: Settings,
    *,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> store.Prepared:
    """Writes `raw` as a prepared folder `out` and opens it; `say` gets one line a stage.

    The folder appears under its name only when it is complete; an old one is replaced only then. Raises InputError on
    an `out` that exists (unless `overwrite`), settings that do not fit the log, a log that breaks contract 1, and past
    `max_rejected_fraction` of breaches: then the rejected rows lie in OUT.rejected.parquet.
    """
    check_out(out, overwrite)
    _check_settings(raw, settings)
    exposures, items = tables.same_kind_of_id(raw.table(), raw.items)
    say(f"checking {len(exposures):,} exposures")
    checked = sessionlog.check(exposures, None if items is None else items["item_id"])
    _rejected(exposures, checked.reasons, out, settings.max_rejected_fraction)
    items = tables.item_table(items, checked.exposures)
    users = tables.user_table(checked.exposures)

    say("cutting sessions")
    dense = tables.map_ids(checked.exposures, users, items)
    rule = "session_id" if "session_id" in dense.columns else settings.session_rule or raw.session_rule
    log = sessionlog.cut_sessions(dense, rule)
    log, too_long = _take_out(log, pl.int_range(pl.len()).over("session") >= settings.max_session_items)
    sessions = _sessions(log)
    split = settings.split or raw.split
    sessions = sessions.with_columns(role=_roles(sessions, split, settings, len(users)))
    straddling = sessions.filter(pl.col("role").is_null())["session"]
    log, straddles = _take_out(log, pl.col("session").is_in(straddling.implode()))
    sessions = sessions.filter(pl.col("role").is_not_null())
    reasons = pl.concat(
        [
            checked.reasons,
            too_long.select("row", reason=pl.lit(sessionlog.LONG_SESSION)),
            straddles.select("row", reason=pl.lit(sessionlog.STRADDLES)),
        ]
    ).sort("row")
    rejected = _rejected(exposures, reasons, out, settings.max_rejected_fraction)

    names = sessionlog.feedback_names(checked.exposures)
    flat = tables.flatten(log, sessions, names, len(users))
    users = users.with_columns(**tables.counts_by_role(flat))
    side, vocabularies, side_columns = tables.code_side(items)
    catalogue = tables.training_counts(flat, len(items))
    manifest = {
        "version": store.VERSION,
        "source": raw.source,
        "note": raw.note,
        "settings": {**dataclasses.asdict(settings), "split": split, "session_rule": rule},
        "fingerprint": store.fingerprint(flat, [users, items], side),
        "feedback_names": names,
        **tables.statistics(flat, sessions, users, items),
        "rejected": dict(sorted(rejected.group_by("reason").len().iter_rows())),
        "rows": len(exposures),
        "side_columns": side_columns,
    }
    say(f"writing {len(users):,} users")
    with _appearing(out) as folder:
        store.write_log(flat, folder)
        items.write_parquet(folder / "items.parquet")
        users.write_parquet(folder / "users.parquet")
        rejected.write_parquet(folder / "rejected.parquet")
        for name, vocabulary in vocabularies.items():
            vocabulary.write_parquet(folder / f"side_{name}.parquet")
        coded = {f"side_{name}_VW": codes for name, codes in side.items()}
        np.savez_compressed(folder / "catalogue.npz", **catalogue, **coded)
        if raw.truth is not None:
            (folder / "truth.json").write_text(json.dumps(raw.truth, indent=1))
        (folder / store.MANIFEST).write_text(json.dumps(manifest, indent=1))
    _rejected_file(out).unlink(missing_ok=True)  # of an earlier attempt that failed
    return store.open_log(out)


def check_out(out: Path, overwrite: bool) -> None:
    """Raises InputError where `out` may not be written, which is known before a long log is read."""
    if out.exists() and not overwrite:
        raise InputError(f"{out} exists already; give another --out, or --overwrite to replace it when all is done")
    if out.exists() and not (out / store.MANIFEST).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not a prepared log, so --overwrite does not replace it; give another --out")


def _check_settings(raw: RawLog, settings: Settings) -> None:
    if settings.session_rule is not None and "session_id" in raw.exposures.lazy().collect_schema():
        raise InputError(
            f"the log has session ids, so --session-rule {settings.session_rule} would throw them away; "
            "leave out one or the other"
        )
    if settings.max_session_items < 1:
        raise InputError(f"--max-session-items is {settings.max_session_items}; wanted at least 1")
    if not 0 <= settings.max_rejected_fraction <= 1:
        raise InputError(f"--max-rejected-fraction is {settings.max_rejected_fraction}; wanted 0 to 1, such as 0.03")
    split = settings.split or raw.split
    of_split = {"temporal": ("validation_from", "test_from"), "held_out_users": ("validation_users", "test_users")}
    for other, names in of_split.items():
        given = [name for name in names if getattr(settings, name) is not None]
        if given and other != split:
            raise InputError(f"--{given[0].replace('_', '-')} belongs to --split {other}; this log's split is {split}")


# --- sessions and roles ----------------------------------------------------------------------------------------------


def _take_out(log: pl.DataFrame, condition: pl.Expr) -> tuple[pl.DataFrame, pl.DataFrame]:
    marked = log.with_columns(out=condition)
    return marked.filter(~pl.col("out")).drop("out"), marked.filter("out").drop("out")


def _sessions(log: pl.DataFrame) -> pl.DataFrame:
    """session, user, items, start_ms, end_ms of each session, in order."""
    return log.group_by("session", maintain_order=True).agg(
        pl.col("user").first(),
        items=pl.len().cast(pl.Int32),
        start_ms=pl.col("timestamp_ms").min(),
        end_ms=pl.col("timestamp_ms").max(),
    )


def _roles(sessions: pl.DataFrame, split: Split, settings: Settings, users: int) -> pl.Series:
    if split == "temporal":
        dates = {"validation_from_ms": settings.validation_from, "test_from_ms": settings.test_from}
        return sessionlog.assign_roles(sessions, split, **_cut_dates(sessions, dates))
    if split == "held_out_users":
        share, most = _DEFAULT_HELD_OUT_USERS
        default = min(max(users // share, 1), most)
        validation = default if settings.validation_users is None else settings.validation_users
        test = default if settings.test_users is None else settings.test_users
        if validation < 0 or test < 0 or validation + test >= users:
            raise InputError(
                f"--validation-users {validation} and --test-users {test} leave none of the {users} users to train on; "
                "wanted two counts, 0 or more, with a sum below the number of users"
            )
        return sessionlog.assign_roles(sessions, split, validation_users=validation, test_users=test)
    return sessionlog.assign_roles(sessions, split)


def _cut_dates(sessions: pl.DataFrame, given: dict[str, str | None]) -> dict[str, int]:
    late = [_iso(int(sessions["end_ms"].quantile(q, "lower"))) for q in (0.8, 0.9)]
    hint = f"for example --validation-from {late[0]} --test-from {late[1]} (the last fifth and tenth of the sessions)"
    if None in given.values():
        raise InputError(f"--split temporal wants --validation-from and --test-from; {hint}")
    try:
        moments = {name: datetime.datetime.fromisoformat(text) for name, text in given.items()}
    except ValueError as error:
        raise InputError(f"{error}; wanted dates in ISO 8601, {hint}") from error
    utc = {name: m if m.tzinfo else m.replace(tzinfo=datetime.UTC) for name, m in moments.items()}
    cuts = {name: round(moment.timestamp() * 1000) for name, moment in utc.items()}
    if cuts["validation_from_ms"] >= cuts["test_from_ms"]:
        raise InputError(f"--validation-from must lie before --test-from; {hint}")
    first, last = sessions["start_ms"].min(), sessions["end_ms"].max()
    if cuts["validation_from_ms"] <= first or cuts["test_from_ms"] > last:
        raise InputError(f"the log runs from {_iso(first)} to {_iso(last)}, the dates must lie inside; {hint}")
    return cuts


def _iso(milliseconds: int) -> str:
    return datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _rejected(exposures: pl.DataFrame, reasons: pl.DataFrame, out: Path, limit: float) -> pl.DataFrame:
    """The rows that are not taken, as they came, with the reason. Raises InputError where they are too many.

    Two kinds are reported but not held against the log: an exact duplicate, whose first copy stays, so that nothing is
    lost, and a row that its source leaves out by declaration.
    """
    rejected = exposures[reasons["row"]].with_columns(reasons["reason"])
    left_out = pl.col("left_out").is_not_null() if "left_out" in exposures.columns else pl.lit(False)
    breaches = rejected.filter((pl.col("reason") != sessionlog.DUPLICATE) & ~left_out)["reason"].value_counts(sort=True)
    fraction = breaches["count"].sum() / max(len(exposures) - len(rejected.filter(left_out)), 1)
    if fraction <= limit and len(rejected) < len(exposures):
        return rejected
    kept = _rejected_file(out)
    kept.parent.mkdir(parents=True, exist_ok=True)
    partial = kept.with_name(f".{kept.name}.partial")
    rejected.write_parquet(partial)
    partial.replace(kept)
    counts = "; ".join(f"{reason}: {count:,}{_CURES.get(reason, '')}" for reason, count in breaches.iter_rows())
    allow = f", or allow them with --max-rejected-fraction {np.ceil(fraction * 100) / 100:.2f}" if fraction < 1 else ""
    raise InputError(
        f"{fraction:.1%} of {len(exposures):,} rows break the contract, more than the allowed {limit:.1%} ({counts}). "
        f"They are in {kept}. Put them right{allow}"
    )


def _rejected_file(out: Path) -> Path:
    return out.with_name(f"{out.name}.rejected.parquet")


# --- the folder ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write into, which takes its name when the block ends well and is removed otherwise."""
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a preparation that was killed
    partial.mkdir()
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial)
        raise
    if out.exists():
        old = out.with_name(f".{out.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        out.rename(old)
        partial.rename(out)
        shutil.rmtree(old)
    else:
        partial.rename(out)
