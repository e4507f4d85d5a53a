"""From a raw log to a prepared folder: check, map ids, cut sessions, give roles, code side information, write.

`prepare` is the pipeline from top to bottom; the folder's format is told in store.py, the rules in session_log.py.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from sessionrec_jax.data import session_context, session_log, side_information, store
from sessionrec_jax.data.preparation import card, external_sort, shared_rows, tables
from sessionrec_jax.data.preparation.atomic_folder import appearing
from sessionrec_jax.data.preparation.histories import Rules, cut_users
from sessionrec_jax.data.preparation.log_facts import Facts
from sessionrec_jax.data.preparation.statistics import Counts, Tally, count
from sessionrec_jax.data.preparation.threads import threaded
from sessionrec_jax.data.session_context import FromStart
from sessionrec_jax.data.session_log import Split
from sessionrec_jax.data.sources import RawLog
from sessionrec_jax.data.sources.files import collected, reading, scanned
from sessionrec_jax.errors import InputError

_ROWS_READ, _ROWS_CUT = 1_000_000, 2_000_000  # in memory at a time, of what a thread sorts and of what it cuts
_DEFAULT_HELD_OUT_USERS = (10, 2_000)  # one in ten, at most two thousand, for validation and for test
_CURES = {
    session_log.LONG_SESSION: ", see --max-session-items and --session-rule",
    session_log.NOT_A_TIME: ", is it the right column?",
    session_log.NOT_BOOLEAN: ", wanted true/false or 0/1",
    session_log.NO_CATEGORY: ", see --session-context; put numbers with fractions into buckets first",
    session_log.UNKNOWN_ITEM: ", is it the right item table?",
    session_log.STRADDLES: ", see --validation-from and --test-from",
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
    numeric: tuple[str, ...] = ()
    """Columns of integers in the item table that are amounts, not classes. Those with fractions are in any case."""
    side_buckets: int = 10
    """Into how many buckets amounts go, at quantiles of the items that training sessions show."""
    min_item_exposures: int = 0
    """Items with fewer exposures in training sessions, context too, share rows of the ID table; 0: none does."""
    tail_buckets: int = 1024
    """How many rows they share."""
    session_time: tuple[FromStart, ...] = ()
    """Hour (0 to 23) and day (1, Monday, to 7) of a session's start, UTC, as its context."""


Each = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]
"""An engine: calls a function for each of some values, here or elsewhere, and gives the results in order, as `map`
does. What it sends is small; rows go through files in the folder that is being written."""


def prepare(
    raw: RawLog,
    out: Path,
    settings: Settings,
    *,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda line: None,
    each: Each = threaded,
    piece_rows: int | None = None,
) -> store.Prepared:
    """Writes `raw` as a prepared folder `out` and opens it; `say` gets one line a stage. `each`: the engine, which
    reads so many rows with a call (None: all with one); what is written is the same for all.

    The folder appears under its name only when it is complete; an old one is replaced only then. Raises InputError on
    an `out` that exists (unless `overwrite`), settings that do not fit the log, a log that breaks contract 1, and past
    `max_rejected_fraction` of breaches: then the rejected rows lie in OUT.rejected.parquet.
    """
    check_out(out, overwrite)
    _check_settings(raw, settings)
    items = tables.items_of(raw.items, raw.exposures.lazy().collect_schema())
    item_ids = None if items is None else items["item_id"]
    session_log.typed(raw.exposures.lazy(), item_ids)  # refuses columns that cannot be meant, before anything is read
    with appearing(out) as folder:
        (folder / "runs").mkdir()
        (folder / "log").mkdir()

        say("reading the exposures")
        read = [*each(partial(_read_piece, raw, item_ids, folder / "runs"), _pieces(raw, piece_rows))]
        facts = Facts().merge(of_piece for of_piece, _ in read)
        facts.refuse(raw.time_unit, raw.times)
        _refuse_many(raw, facts.reasons, facts.rows, folder, out, settings)

        say(f"cutting {facts.rows:,} exposures into sessions")
        groups = external_sort.groups({run: bounds for _, found in read for run, bounds in found}, _ROWS_CUT)
        users_of_group = [*each(_count_users, groups)]
        items = facts.item_ids.to_frame("item_id") if items is None else items
        rules = _rules(raw, settings, facts, items, sum(users_of_group))
        first_users = [0, *itertools.accumulate(users_of_group)][:-1]
        tally, reasons, digests = Tally(len(items)), [facts.reasons], []
        numbered = [*zip(range(len(groups)), groups, first_users, strict=True)]
        for counts, of_group, digests_of_group in each(partial(_cut_group, rules, folder, len(groups)), numbered):
            tally.add(counts)
            reasons.append(of_group)
            digests += digests_of_group
        store.finish_log(folder, users_of_group, rules.context_met)
        shutil.rmtree(folder / "runs")
        reasons = pl.concat(reasons).sort("row")
        _refuse_many(raw, reasons, facts.rows, folder, out, settings)
        tally.refuse()

        users = tally.users()
        say(f"writing the tables of {len(users):,} users")
        shown_V = tally.training_exposures()
        side = side_information.code_side(items, shown_V > 0, settings.numeric, settings.side_buckets)
        context = session_context.code_context(rules.context_met, tally.session_context, rules.context_of_start)
        id_row_V = shared_rows.id_rows(items["item_id"], shown_V, settings.min_item_exposures, settings.tail_buckets)
        manifest = {
            "version": store.VERSION,
            "source": raw.source,
            "note": raw.note,
            "settings": {**dataclasses.asdict(settings), "split": rules.split, "session_rule": rules.session_rule},
            "fingerprint": store.fingerprint(digests, [users, items], side, id_row_V, context),
            "feedback_names": rules.feedback_names,
            **tally.statistics(),
            "rejected": dict(sorted(reasons.group_by("reason").len().iter_rows())),
            "rows": facts.rows,
            "items_in_tail": 0 if id_row_V is None else int(np.sum(shown_V[1:] < settings.min_item_exposures)),
            "side_columns": [column.summary for column in side.values()],
            "session_context": [column.summary for column in context.values()],
        }
        items.write_parquet(folder / "items.parquet")
        users.write_parquet(folder / "users.parquet")
        _write_rejected(raw, reasons, folder / "rejected.parquet")
        for name, column in side.items():
            column.table.write_parquet(folder / f"side_{name}.parquet")
        for name, column in context.items():
            column.table.write_parquet(folder / f"context_{name}.parquet")
        codes = {name: column.codes_VW for name, column in side.items()}
        coded = {f"side_{name}_VW": codes_VW for name, codes_VW in codes.items()}
        coded |= {f"context_{name}_M": column.code_M for name, column in context.items()}
        rows = {} if id_row_V is None else {"id_row_V": id_row_V}
        counts_V = tally.catalogue()
        np.savez_compressed(folder / "catalogue.npz", **counts_V, **coded, **rows)
        if raw.truth is not None:
            (folder / "truth.json").write_text(json.dumps(raw.truth, indent=1))
        written = store.Prepared(folder, manifest, **counts_V, side=codes, id_row_V=id_row_V)
        card.write(card.card(written, tally.distributions()), folder)
        (folder / store.MANIFEST).write_text(json.dumps(manifest, indent=1))
    _beside(out).unlink(missing_ok=True)  # of an earlier attempt that failed
    return store.open_log(out)


# --- what an engine calls --------------------------------------------------------------------------------------------


def _pieces(raw: RawLog, piece_rows: int | None) -> list[tuple[int, int | None]]:
    """First row and number of rows of each piece; None: to the end."""
    if piece_rows is None:
        return [(0, None)]
    rows = collected(raw.exposures.lazy().select(pl.len()), raw.source).item()
    return [(first, piece_rows) for first in range(0, max(rows, 1), piece_rows)]


def _read_piece(
    raw: RawLog, item_ids: pl.Series | None, folder: Path, piece: tuple[int, int | None]
) -> tuple[Facts, list[tuple[Path, external_sort.Bounds]]]:
    """Facts of the rows, and the sound ones in sorted runs."""
    facts, first = Facts(), piece[0]
    typed = session_log.typed(raw.exposures.lazy().slice(*piece), item_ids, first, raw.time_unit)

    def write(numbered: tuple[int, pl.DataFrame]) -> tuple[Path, external_sort.Bounds]:
        path = folder / f"{first:012d}-{numbered[0]:06d}.arrow"
        return path, external_sort.write_run(numbered[1], path)

    sound = map(facts.add, scanned(typed, raw.source, _ROWS_READ))
    return facts, [*threaded(write, enumerate(sound))]


def _count_users(group: external_sort.Group) -> int:
    return group.scan().select(pl.col("user_id").n_unique()).collect().item()


def _cut_group(
    rules: Rules, folder: Path, groups: int, numbered: tuple[int, external_sort.Group, int]
) -> tuple[Counts, pl.DataFrame, list[bytes]]:
    """Writes the records of a group's users; their counts, what was rejected of them, and their digests."""
    number, group, first_user = numbered
    histories = cut_users(group.scan().collect(), rules, first_user)
    store.write_part(folder, number, groups, histories.log, first_user)
    range_U = histories.users.select(external_sort.range_of(pl.col("order"))).to_series().to_numpy()
    bounds = [0, *(np.flatnonzero(np.diff(range_U)) + 1).tolist(), len(range_U)]
    return count(histories, rules.context_met), histories.reasons, store.digests(histories.log, bounds)


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
    side_information.check(raw.items, settings.numeric, settings.side_buckets)
    shared_rows.check(settings.min_item_exposures, settings.tail_buckets)
    columns = session_log.context_columns(raw.exposures.lazy().collect_schema())
    session_context.check(columns, settings.session_time)
    split = settings.split or raw.split
    of_split = {"temporal": ("validation_from", "test_from"), "held_out_users": ("validation_users", "test_users")}
    for other, names in of_split.items():
        given = [name for name in names if getattr(settings, name) is not None]
        if given and other != split:
            raise InputError(f"--{given[0].replace('_', '-')} belongs to --split {other}; this log's split is {split}")


# --- rules -----------------------------------------------------------------------------------------------------------


def _rules(raw: RawLog, settings: Settings, facts: Facts, items: pl.DataFrame, users: int) -> Rules:
    rule = "session_id" if "session_id" in raw.exposures.lazy().collect_schema() else None
    split = settings.split or raw.split
    bounds: dict[str, int] = {}
    if split == "temporal":
        dates = {"validation_from_ms": settings.validation_from, "test_from_ms": settings.test_from}
        bounds = _cut_dates(facts, dates)
    elif split == "held_out_users":
        bounds = _held_out(settings, users)
    return Rules(
        items.select("item_id"),
        session_log.feedback_names(facts.context_kinds),
        rule or settings.session_rule or raw.session_rule,
        settings.max_session_items,
        split,
        bounds,
        session_context.met(facts.session_context, settings.session_time),
        settings.session_time,
    )


def _held_out(settings: Settings, users: int) -> dict[str, int]:
    share, most = _DEFAULT_HELD_OUT_USERS
    default = min(max(users // share, 1), most)
    validation = default if settings.validation_users is None else settings.validation_users
    test = default if settings.test_users is None else settings.test_users
    if validation < 0 or test < 0 or validation + test >= users:
        raise InputError(
            f"--validation-users {validation} and --test-users {test} leave none of the {users} users to train on; "
            "wanted two counts, 0 or more, with a sum below the number of users"
        )
    return {"validation_users": validation, "test_users": test}


def _cut_dates(facts: Facts, given: dict[str, str | None]) -> dict[str, int]:
    late = [_iso(facts.time_quantile_ms(q)) for q in (0.8, 0.9)]
    hint = f"for example --validation-from {late[0]} --test-from {late[1]} (the last fifth and tenth of the exposures)"
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
    first, last = facts.time_range_ms
    if cuts["validation_from_ms"] <= first or cuts["test_from_ms"] > last:
        raise InputError(f"the log runs from {_iso(first)} to {_iso(last)}, the dates must lie inside; {hint}")
    return cuts


def _iso(milliseconds: int) -> str:
    return datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")


# --- rejected rows ---------------------------------------------------------------------------------------------------


def _refuse_many(raw: RawLog, reasons: pl.DataFrame, rows: int, folder: Path, out: Path, settings: Settings) -> None:
    """Raises InputError where the rows that are not taken are too many, and leaves them beside `out`.

    Two kinds are reported but not held against the log: an exact duplicate, whose first copy stays, so that nothing is
    lost, and a row that its source leaves out by declaration.
    """
    held = reasons.filter(pl.col("reason").is_in(session_log.BREACHES))
    left_out = len(reasons) - len(held) - int((reasons["reason"] == session_log.DUPLICATE).sum())
    fraction, limit = len(held) / max(rows - left_out, 1), settings.max_rejected_fraction
    if fraction <= limit and len(reasons) < rows:
        return
    _write_rejected(raw, reasons, folder / "rejected.parquet")
    kept = (folder / "rejected.parquet").replace(_beside(out))
    problem = f"{fraction:.1%} of {rows:,} rows break the contract, more than the allowed {limit:.1%}"
    if fraction <= limit:
        problem, held = f"none of {rows:,} rows is left", reasons
    by_reason = held.group_by("reason").len().sort(-pl.col("len").cast(pl.Int64), "reason")
    unit = f", is a part of {raw.times} in another unit?" if raw.times else ", are all files in --time-unit?"
    cures = _CURES | {session_log.ABSURD_TIME: unit}
    counts = "; ".join(f"{reason}: {count:,}{cures.get(reason, '')}" for reason, count in by_reason.iter_rows())
    allow = ""
    if limit < fraction < 1:
        allow = f", or allow them with --max-rejected-fraction {np.ceil(fraction * 100) / 100:.2f}"
    raise InputError(f"{problem} ({counts}). They are in {kept}. Put them right{allow}")


def _write_rejected(raw: RawLog, reasons: pl.DataFrame, path: Path) -> None:
    """The rows that are not taken, as they came, with the reason."""
    exposures = raw.exposures.lazy()
    if reasons.is_empty():
        exposures.clear().with_columns(reason=pl.lit(None, pl.String)).collect().write_parquet(path)
        return
    with reading(raw.source):
        numbered = exposures.with_row_index("row").join(reasons.lazy(), on="row", maintain_order="left")
        numbered.drop("row").sink_parquet(path)


def _beside(out: Path) -> Path:
    """Where the rejected rows of a failed preparation lie."""
    return out.resolve().with_name(f"{out.name}.rejected.parquet")
