"""Broken logs: each ends with a clear error or with counted rejections, and never with less than came.

The law: `prepare` raises InputError and leaves nothing, or every row is in the log or in rejected.parquet, as it came and
with a reason, whatever the order of rows and however many are in memory at a time.
"""

from __future__ import annotations

import gzip
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import polars as pl
import pytest
from contract import assert_same_log
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from sessionrec_jax.data import prepare as preparation
from sessionrec_jax.data.prepare import Settings, prepare
from sessionrec_jax.data.sources import RawLog, table
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.errors import InputError

NOW_MS = 1_650_000_000_000
ALLOWED = Settings(max_rejected_fraction=1.0, max_session_items=20)
FEW = settings(max_examples=8, deadline=None, phases=[Phase.explicit, Phase.generate])  # to shrink one takes minutes
MANY = settings(FEW, max_examples=150)
NAN, INF = float("nan"), float("inf")

# A column of a log is of one type. In each: values that are sound, and values that may not be.
TEXT = ["u1", "u2", " u 3", "a\nb", 'a"b,c', "😀", "[1, 2]", "007", "7", "x" * 3000, str(2**64), " ", "", "\ufffd", None]
IDS = {
    pl.String: TEXT,
    pl.Int64: [1, 2, -3, 2**63 - 1, -(2**63), None],
    pl.UInt64: [1, 2, 2**63, 2**64 - 1, None],
    pl.Float64: [1.0, 2.0, 2.0**53, 2.0**53 + 2, 1.5, 1e300, NAN, -INF, None],
}
TIMES = {
    pl.Int64: [NOW_MS, NOW_MS // 1000, NOW_MS * 1000, NOW_MS * 10**6, -1, 2**63 - 1, None],
    pl.Float64: [float(NOW_MS), NOW_MS + 0.25, NOW_MS / 1000, NAN, INF, -1e300, None],
    pl.String: [str(NOW_MS), f"{NOW_MS}.0", "1.65e12", str(NOW_MS // 1000), "noon", "nan", "9" * 400, "", None],
}
CLICKED = {
    pl.Boolean: [True, False, None],
    pl.Int64: [1, 0, 2, -1, None],
    pl.Float64: [1.0, 0.0, 0.5, NAN, None],
    pl.String: ["1", "0", "TRUE", " false ", "1.0", "yes", "", None],
}
SESSIONS = {pl.String: ["a", "b", "a\nb", "", None], pl.Int64: [1, 2, -(2**63), None]}
FEEDBACK = {pl.String: ["query", "anchor", "", None]}


@st.composite
def logs(draw: st.DrawFn) -> pl.DataFrame:
    """Sound rows of six users, dirty ones, and copies of both, in any order."""
    choices = {"user_id": IDS, "item_id": IDS, "timestamp_ms": TIMES, "clicked": CLICKED}
    choices |= draw(st.sampled_from([{}, {"session_id": SESSIONS}, {"feedback": FEEDBACK}]))
    kinds = {name: draw(st.sampled_from(list(of))) for name, of in choices.items()}
    values = {name: of[kinds[name]] for name, of in choices.items()}
    dirty = draw(st.lists(st.tuples(*(st.sampled_from(of) for of in values.values())), max_size=25))
    sound = [_sound(choices, kinds, user, place) for user in range(6) for place in range(4)]
    rows = draw(st.permutations([*sound, *dirty, *dirty[:5], *sound[:3]]))
    return pl.DataFrame(rows, schema=kinds, orient="row")


def _sound(choices: dict[str, Any], kinds: dict[str, Any], user: int, place: int) -> tuple[Any, ...]:
    cells = {"user_id": user, "item_id": place, "timestamp_ms": NOW_MS + place * 3_600_000, "clicked": place % 2}
    cells |= {"session_id": place, "feedback": "query"}
    as_kind = {pl.String: str, pl.Float64: float, pl.Boolean: bool}
    return tuple(as_kind.get(kinds[name], int)(cells[name]) for name in choices)


# --- the law ---------------------------------------------------------------------------------------------------------


def law(raw: RawLog, how: Settings = ALLOWED) -> Prepared | None:
    """Prepares `raw` in three ways and holds them to the law."""
    came = raw.exposures.lazy().collect()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole, told = attempt(raw, folder / "whole", how)
        with mock.patch.multiple(preparation, _ROWS_READ=7, _ROWS_CUT=5):
            in_parts, also_told = attempt(raw, folder / "parts", how, piece_rows=11)
        reversed_ = RawLog(raw.source, came[::-1], raw.items, time_unit=raw.time_unit)
        backwards, told_backwards = attempt(reversed_, folder / "backwards", how)
        assert told == also_told == told_backwards
        if whole is None:
            assert all(path.name.endswith(".rejected.parquet") for path in folder.iterdir())
            return None
        assert_same_log(in_parts, whole)
        assert exposures_of(backwards) == exposures_of(whole)
        assert backwards.manifest["rejected"] == whole.manifest["rejected"]

        rejected = pl.read_parquet(whole.path / "rejected.parquet")
        assert rejected["reason"].null_count() == 0
        assert dict(rejected.group_by("reason").len().iter_rows()) == whole.manifest["rejected"]
        kept = rows_of(came)
        kept.subtract(rows_of(rejected.select(came.columns)))
        assert min(kept.values(), default=0) >= 0, "a rejected row is not as it came"
        assert len(came) == whole.manifest["rows"] == whole.manifest["exposures"] + len(rejected)
        wanted = Counter()
        for row, count in (+kept).items():
            wanted[meant(dict(zip(came.columns, row, strict=True)), whole)] += count
        assert wanted == exposures_of(whole)
        return whole


def attempt(raw: RawLog, out: Path, how: Settings, **kwargs: Any) -> tuple[Prepared | None, str]:
    try:
        return prepare(raw, out, how, **kwargs), ""
    except InputError as error:
        return None, str(error).replace(out.name, "OUT")


def rows_of(frame: pl.DataFrame) -> Counter:
    """Its rows with their numbers; NaN is itself here."""
    return Counter(tuple("nan" if cell != cell else cell for cell in row) for row in frame.iter_rows())


def meant(row: dict[str, Any], log: Prepared) -> tuple[Any, ...]:
    """What a sound row says: user, item, feedback."""
    user, item = (int(row[n]) if isinstance(row[n], float) else row[n] for n in ("user_id", "item_id"))
    label = row["clicked"].strip().lower() if isinstance(row["clicked"], str) else row["clicked"]
    if label in (None, ""):
        kind = row.get("feedback")
        return user, item, "context" if kind is None else kind
    return user, item, "clicked" if label in (True, "1", "1.0", "true") else "ignored"


def exposures_of(log: Prepared) -> Counter:
    """The same of what is stored."""
    flat, users = log.arrays(), pl.read_parquet(log.path / "users.parquet")["user_id"].to_list()
    items, user_N = log.item_ids().to_list(), np.repeat(np.arange(flat.users), np.diff(flat.user_item_offsets_U1))
    stored = zip(user_N.tolist(), flat.item_N.tolist(), flat.feedback_N.tolist(), strict=True)
    return Counter((users[user], items[item - 1], log.feedback_names[code]) for user, item, code in stored)


@FEW
@given(log=logs())
def test_every_row_is_taken_or_rejected_as_it_came(log):
    law(RawLog("test", log))
