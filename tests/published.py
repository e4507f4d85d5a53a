"""Helps the tests of published sources: prepares a log in its publisher's layout and reads it back in the
publisher's ids.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl

from sessionrec_jax.data.codes import ROLES
from sessionrec_jax.data.preparation.prepare import Settings, prepare
from sessionrec_jax.data.sources import RawLog
from sessionrec_jax.data.store import Prepared, read_records

# A fixture is small and has every oddity in it, so its share of rejected rows is larger than in a real log.
SETTINGS = Settings(max_rejected_fraction=0.2)


def write_lines(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def csv(*rows: Iterable[Any]) -> list[str]:
    return [",".join("" if value is None else str(value) for value in row) for row in rows]


def prepared(raw: RawLog, folder: Path) -> Prepared:
    assert raw.times is not None  # it has no --time-unit
    return prepare(raw, folder / "prepared", SETTINGS)


def users(log: Prepared) -> list[Any]:
    """Returns the publisher's ids of users in the stored order."""
    return pl.read_parquet(log.path / "users.parquet")["user_id"].to_list()


def stored_record(log: Prepared, user: Any) -> list[tuple[int, str, str]]:
    """Returns the stored record of a user in the publisher's ids: (start in seconds, role, "item feedback, ...") a
    session.
    """
    record = read_records(log.path)[users(log).index(user)]
    ids = log.item_ids()
    shown = zip(record["item"].tolist(), record["feedback"].tolist(), strict=True)
    items = iter([f"{ids[item - 1]} {log.feedback_names[code]}" for item, code in shown])
    sessions = zip(record["session_items"], record["session_seconds"], record["session_role"], strict=True)
    return [(int(at), ROLES[role], ", ".join(itertools.islice(items, int(count)))) for count, at, role in sessions]


def side(log: Prepared, column: str, item: Any) -> list[Any]:
    """Returns the published values of a column of side information of an item."""
    vocabulary = dict(pl.read_parquet(log.path / f"side_{column}.parquet").iter_rows())
    codes_W = log.side[column][log.item_ids().to_list().index(item) + 1]
    return [vocabulary[code] for code in codes_W.tolist() if code]
