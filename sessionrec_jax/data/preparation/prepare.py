"""From a raw log to a prepared folder: check, map ids, cut sessions, give roles, code side information, write.

`prepare` is the pipeline from top to bottom. The folder's format is in store.py, the rules are in session_log.py.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from doors.files import check_folder
from doors.state import checksums
from sessionrec_jax.data import (
    content_vectors,
    mapped,
    session_context,
    session_log,
    side_information,
    soundness,
    store,
)
from sessionrec_jax.data.preparation import card, external_sort, rejected, shared_rows, tables
from sessionrec_jax.data.preparation.atomic_folder import atomic_folder
from sessionrec_jax.data.preparation.histories import HistoryRules, prepare_users
from sessionrec_jax.data.preparation.log_facts import LogFacts
from sessionrec_jax.data.preparation.settings import Settings, check_settings, make_rules
from sessionrec_jax.data.preparation.statistics import LogStatistics, UserStatistics, count_users
from sessionrec_jax.data.preparation.threads import threaded
from sessionrec_jax.data.sources import RawLog
from sessionrec_jax.data.sources.files import collected, scanned
from sessionrec_jax.errors import InputError

_ROWS_READ, _ROWS_CUT = 1_000_000, 2_000_000  # rows in memory at a time: that a thread sorts, and that it cuts

Engine = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]
"""Calls a function for each of some values, here or on other machines, and yields the results in order, as `map` does.
It sends little data: rows pass through files in the folder that is being written."""


def prepare(
    raw: RawLog,
    out: Path,
    settings: Settings,
    *,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda line: None,
    engine: Engine = threaded,
    piece_rows: int | None = None,
) -> store.Prepared:
    """Writes `raw` as a prepared folder `out` and opens it. `say` gets one line at each stage.

    A call of the engine reads `piece_rows` rows (None: all); the result does not depend on it. The folder appears under
    its name only when it is complete; an old one is replaced only then. Raises InputError if `out` exists (unless
    `overwrite`), if the settings do not fit the log, if the log breaks contract 1, and if more than
    `max_rejected_fraction` of the rows do: then OUT.rejected.parquet has the rejected rows.
    """
    check_out(out, overwrite)
    check_settings(raw, settings)
    items, copies = tables.check_items(raw.items, raw.exposures.lazy().collect_schema())
    if copies:
        say(f"{copies:,} rows of the item table are exact copies of others and are left out")
        left_out = f"{copies:,} rows of the item table were exact copies of others and were left out."
        raw = dataclasses.replace(raw, note=f"{raw.note} {left_out}".strip())
    item_ids = None if items is None else items["item_id"]
    session_log.type_rows(raw.exposures.lazy(), item_ids)  # refuses impossible columns before anything is read
    with atomic_folder(out) as folder:
        say("reading the exposures")
        facts, runs = _read(raw, item_ids, folder, engine, piece_rows)
        refuse_many = partial(
            rejected.refuse_many, raw, rows=facts.rows, limit=settings.max_rejected_fraction, folder=folder, out=out
        )
        refuse_many(facts.reasons)
        facts.refuse_no_click()

        say(f"cutting {facts.rows:,} exposures into sessions")
        items = _in_random_order(facts.item_ids.to_frame("item_id") if items is None else items)
        cut = _cut(raw, settings, facts, items, runs=runs, folder=folder, engine=engine)
        refuse_many(cut.reasons)
        cut.statistics.refuse()

        say(f"writing the tables of {sum(cut.users_of_group):,} users")
        rejected.write(raw, cut.reasons, folder / "rejected.parquet")
        manifest = _origin(raw, settings, facts, cut) | _write_tables(folder, items, cut, settings)
        if raw.truth is not None:
            (folder / "truth.json").write_text(json.dumps(raw.truth, indent=1))
        card.write(card.card(store.read_folder(folder, manifest), cut.statistics.distributions()), folder)
        (folder / store.MANIFEST).write_text(json.dumps(manifest, indent=1))
        (folder / soundness.CHECKSUMS).write_text(json.dumps(checksums(folder), indent=1))
        say("reading the records back, to write the arrays that training maps")
        mapped.write(folder, manifest, store.decoded(folder))
    rejected.path_of(out).unlink(missing_ok=True)  # left by an earlier attempt that failed
    return store.open_log(out)


def check_out(out: Path, overwrite: bool) -> None:
    """Raises InputError if `out` may not be written; called before a long log is read."""
    check_folder(out, "a prepared log")
    if out.exists() and not overwrite:
        raise InputError(f"{out} exists already; give another --out, or --overwrite to replace it when all is done")
    if out.exists() and not (out / store.MANIFEST).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not a prepared log, so --overwrite does not replace it; give another --out")


_Runs = dict[Path, external_sort.Bounds]


def _read(
    raw: RawLog, item_ids: pl.Series | None, folder: Path, engine: Engine, piece_rows: int | None
) -> tuple[LogFacts, _Runs]:
    """Writes the sound rows in sorted runs. Raises InputError on an empty log and on times that cannot be right."""
    (folder / "runs").mkdir()
    read = [*engine(partial(_read_piece, raw, item_ids, folder / "runs"), _pieces(raw, piece_rows))]
    facts = LogFacts().merge(piece_facts for piece_facts, _ in read)
    facts.refuse(raw.time_unit, raw.times, cuts_by_time="session_id" not in _columns(raw))
    return facts, {run: bounds for _, runs in read for run, bounds in runs}


def _columns(raw: RawLog) -> list[str]:
    return raw.exposures.lazy().collect_schema().names()


def _in_random_order(items: pl.DataFrame) -> pl.DataFrame:
    """Returns the items in the order of their dense ids.

    It is random, because neighbours are on the same device when tables are spread, and publishers number items by time,
    so that popular ones are neighbours.
    """
    return items[np.argsort(session_log.random_order(items["item_id"]), kind="stable")]


class _Cut(NamedTuple):
    """A log whose records are written."""

    rules: HistoryRules
    users_of_group: list[int]
    statistics: LogStatistics
    reasons: pl.DataFrame
    """row, reason of all rejected rows, by row."""
    digests: list[bytes]


def _cut(
    raw: RawLog,
    settings: Settings,
    facts: LogFacts,
    items: pl.DataFrame,
    *,
    runs: _Runs,
    folder: Path,
    engine: Engine,
) -> _Cut:
    """Cuts the rows of all users into sessions and writes the records. The sorted runs are deleted."""
    (folder / "log").mkdir()
    groups = external_sort.groups(runs, _ROWS_CUT)
    users_of_group = [*engine(_count_users, groups)]
    rules = make_rules(raw, settings, facts, items, users=sum(users_of_group))
    first_users = [0, *itertools.accumulate(users_of_group)][:-1]
    statistics, reasons, digests = LogStatistics(len(items)), [facts.reasons], []
    numbered = [*zip(range(len(groups)), groups, first_users, strict=True)]
    for part in engine(partial(_cut_group, rules, folder, len(groups)), numbered):
        statistics.add(part.statistics)
        reasons.append(part.reasons)
        digests += part.digests
    has_probability = session_log.PROBABILITY in _columns(raw)
    store.finish_log(folder, users_of_group, rules.context_values, has_probability=has_probability)
    shutil.rmtree(folder / "runs")
    return _Cut(rules, users_of_group, statistics, pl.concat(reasons).sort("row"), digests)


def _origin(raw: RawLog, settings: Settings, facts: LogFacts, cut: _Cut) -> dict[str, Any]:
    """Returns the manifest's entries about the source and the rules."""
    split, session_rule = cut.rules.split, cut.rules.session_rule
    return {
        "version": store.VERSION,
        "source": raw.source,
        "note": raw.note,
        "settings": {**dataclasses.asdict(settings), "split": split, "session_rule": session_rule},
        "feedback_names": cut.rules.feedback_names,
        "rejected": dict(sorted(cut.reasons.group_by("reason").len().iter_rows())),
        "rows": facts.rows,
        **({session_log.PROBABILITY: True} if session_log.PROBABILITY in _columns(raw) else {}),
    }


def _write_tables(folder: Path, items: pl.DataFrame, cut: _Cut, settings: Settings) -> dict[str, Any]:
    """Writes the tables of items, users and codes; returns the manifest's entries about them."""
    rules, statistics = cut.rules, cut.statistics
    vectors = content_vectors.read(items, settings.vector, settings.vector_type)
    content_vectors.write(folder, vectors)
    items = items.drop(settings.vector)
    users, shown_V = statistics.users(), statistics.training_exposures()
    side = side_information.code_side(items, shown_V > 0, settings.numeric, settings.side_buckets)
    context = session_context.code_context(rules.context_values, statistics.session_context, rules.computed_context)
    id_row_V = shared_rows.id_rows(items["item_id"], shown_V, settings.min_item_exposures, settings.tail_buckets)
    items.write_parquet(folder / "items.parquet")
    users.write_parquet(folder / "users.parquet")
    arrays: dict[str, Any] = {**statistics.catalogue()}
    for name, column in side.items():
        column.table.write_parquet(folder / f"side_{name}.parquet")
        arrays[f"side_{name}_VW"] = column.codes_VW
    for name, column in context.items():
        column.table.write_parquet(folder / f"context_{name}.parquet")
        arrays[f"context_{name}_M"] = column.code_M
    if id_row_V is not None:
        arrays["id_row_V"] = id_row_V
    np.savez_compressed(folder / "catalogue.npz", **arrays)
    return {
        "fingerprint": store.fingerprint(
            cut.digests, [users, items], side=side, vectors=vectors, id_row_V=id_row_V, context=context
        ),
        **statistics.summary(),
        "items_in_tail": 0 if id_row_V is None else int(np.sum(shown_V[1:] < settings.min_item_exposures)),
        "side_columns": [column.summary for column in side.values()],
        **({"vectors": [column.summary for column in vectors.values()]} if vectors else {}),
        "session_context": [column.summary for column in context.values()],
    }


# --- what an engine calls --------------------------------------------------------------------------------------------


def _pieces(raw: RawLog, piece_rows: int | None) -> list[tuple[int, int | None]]:
    """Returns the first row and the number of rows of each piece; None: to the end."""
    if piece_rows is None:
        return [(0, None)]
    rows = collected(raw.exposures.lazy().select(pl.len()), raw.source).item()
    return [(first, piece_rows) for first in range(0, max(rows, 1), piece_rows)]


def _read_piece(
    raw: RawLog, item_ids: pl.Series | None, folder: Path, piece: tuple[int, int | None]
) -> tuple[LogFacts, list[tuple[Path, external_sort.Bounds]]]:
    """Collects the facts of the rows and writes the sound ones in sorted runs."""
    facts, first = LogFacts(), piece[0]
    typed = session_log.type_rows(raw.exposures.lazy().slice(*piece), item_ids, first, raw.time_unit)

    def write(numbered: tuple[int, pl.DataFrame]) -> tuple[Path, external_sort.Bounds]:
        path = folder / f"{first:012d}-{numbered[0]:06d}.arrow"
        return path, external_sort.write_run(numbered[1], path)

    sound = map(facts.add, scanned(typed, raw.source, _ROWS_READ))
    return facts, [*threaded(write, enumerate(sound))]


def _count_users(group: external_sort.Group) -> int:
    return group.scan().select(pl.col("user_id").n_unique()).collect().item()


class _Part(NamedTuple):
    """Some users whose records are written."""

    statistics: UserStatistics
    reasons: pl.DataFrame
    """row, reason of the rows that were rejected here."""
    digests: list[bytes]


def _cut_group(rules: HistoryRules, folder: Path, groups: int, numbered: tuple[int, external_sort.Group, int]) -> _Part:
    """Writes the records of the users of a group, given as (its number, the group, its first user)."""
    number, group, first_user = numbered
    users = prepare_users(group.scan().collect(), rules, first_user)
    store.write_part(folder, number, groups, log=users.log, first_user=first_user)
    # The digests are of ranges of the users' hashes, so that they do not depend on how users are grouped.
    range_U = users.ids.select(external_sort.range_of(pl.col("order"))).to_series().to_numpy()
    bounds = [0, *(np.flatnonzero(np.diff(range_U)) + 1).tolist(), len(range_U)]
    return _Part(count_users(users, rules.context_values), users.reasons, store.digests(users.log, bounds))
