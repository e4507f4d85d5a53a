"""The lines that `sessionrec sources` prints for logs without a source of their own, run on small files.

Each file is written in the layout of its publisher, whose document by_table.py names.
"""

from __future__ import annotations

import json
import shlex
from typing import NamedTuple

import polars as pl
import pytest

import sessionrec_jax as sr
from experiments.__main__ import main
from sessionrec_jax.data.sources.by_table import BY_TABLE
from sessionrec_jax.registry import SOURCES

USERS, DAYS, SHOWN = 12, 3, 4
DAY_SECONDS = 86_400
ROWS = [(user, day, place) for user in range(USERS) for day in range(DAYS) for place in range(SHOWN)]


def item(user: int, day: int, place: int) -> int:
    return 100 + (7 * user + 3 * day + 5 * place) % 20


def yambda(folder):
    """flat/50m/listens.parquet; a share above 100 is a track that was played again in part."""
    columns = {
        "uid": ([user for user, _, _ in ROWS], pl.UInt32),
        "timestamp": ([DAY_SECONDS * day + 5 * place for _, day, place in ROWS], pl.UInt32),
        "item_id": ([item(*row) for row in ROWS], pl.UInt32),
        "is_organic": ([place % 2 for _, _, place in ROWS], pl.UInt8),
        "played_ratio_pct": ([(120, 50, 49, 0)[place] for _, _, place in ROWS], pl.UInt16),
        "track_length_seconds": ([200] * len(ROWS), pl.UInt32),
    }
    (folder / "flat" / "50m").mkdir(parents=True)
    table = pl.DataFrame({name: pl.Series(values, dtype=kind) for name, (values, kind) in columns.items()})
    table.write_parquet(folder / "flat" / "50m" / "listens.parquet")


def openonerec(folder):
    """onerec_bench_release.parquet: a row for each user, with lists; one user has no history."""
    flags = [1, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1]
    rows = [
        {
            "uid": user,
            "split": int(user % 4 == 0),
            "hist_video_pid": [] if user == 0 else [100 + (user + place) % 20 for place in range(12)],
            "hist_video_longview": [] if user == 0 else flags,
            "hist_video_like": [] if user == 0 else [0] * 12,
            "target_video_pid": [100 + user, 101 + user],
            "target_video_longview": [1, 0],
            "target_video_like": [0, 0],
            "hist_ad_pid": [900],
            "reco_cot": None,
        }
        for user in range(USERS)
    ]
    pl.DataFrame(rows).write_parquet(folder / "onerec_bench_release.parquet")


def kuaisearch(folder):
    """rank_lite/train.jsonl: a row for each shown item, as in the publisher's demo."""
    rows = [
        {
            "user_id": user,
            "session_id": 10 * user + day,
            "user_fan_number": 9,
            "time_index": 1000 * (DAYS - day) + user,  # the file has the newest session first
            "search_entrance": "search_entrance_ksstore",
            "recently_clicked_item_ids": [1, 2],
            "recently_purchased_item_ids": [],
            "query": "连衣裙",
            "target_item_id": item(user, day, place),
            "target_item_price": 59.9,
            "is_clicked": int(place == 1),
            "is_purchased": 0,
            "user_statistical_features": {"user_show_cnt_30d_hist": 0.0},
            "split": "train",
        }
        for user, day, place in ROWS
    ]
    (folder / "rank_lite").mkdir()
    (folder / "rank_lite" / "train.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    )


def otto(folder):
    """train.jsonl: a line for each user, with events."""
    lines = []
    for user in range(USERS):
        events = [
            {
                "aid": item(user, day, place),
                "ts": 1_661_200_010_000 + 1000 * (DAY_SECONDS * day + place),
                "type": "clicks",
            }
            for day in range(DAYS)
            for place in range(SHOWN)
        ]
        events.append({"aid": item(user, 2, 0), "ts": events[-1]["ts"] + 1000, "type": "orders"})
        lines.append(json.dumps({"session": user, "events": events}) + "\n")
    (folder / "train.jsonl").write_text("".join(lines))


def trivago(folder):
    """train.csv: a line for each action; only click-outs have impressions; cities have a comma."""
    lines = [
        "user_id,session_id,timestamp,step,action_type,reference,platform,city,device,current_filters,impressions,prices"
    ]
    for user in range(USERS):
        for day in range(DAYS):
            start = f"U{user},S{user}-{day},{1_541_030_000 + DAY_SECONDS * day + user}"
            search = 'DE,"Köln, Germany",mobile'
            shown = [item(user, day, place) for place in range(SHOWN)]
            listed, prices = "|".join(map(str, shown)), "|".join(["70"] * SHOWN)
            lines.append(f'{start},1,search for destination,"Köln, Germany",{search},,,')
            lines.append(f"{start},2,interaction item image,{shown[0]},{search},,,")
            lines.append(f"{start},3,clickout item,{shown[1]},{search},Hotel|Pool,{listed},{prices}")
    (folder / "train.csv").write_text("\n".join(lines) + "\n")


class Expected(NamedTuple):
    """A log's facts that follow from the files above."""

    sessions: int
    clicks: int
    exposures: int


PUBLISHED = {
    "yambda": (yambda, Expected(USERS * DAYS, 2 * USERS * DAYS, len(ROWS))),
    "openonerec": (openonerec, Expected(3 * USERS - 2, 5 * (USERS - 1) + USERS, 12 * (USERS - 1) + 2 * USERS)),
    "kuaisearch": (kuaisearch, Expected(USERS * DAYS, USERS * DAYS, len(ROWS))),
    "otto": (otto, Expected(USERS * DAYS, len(ROWS), len(ROWS))),
    "trivago": (trivago, Expected(USERS * DAYS, USERS * DAYS, len(ROWS))),
}


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """Runs what `sessionrec sources` prints for a log, in a folder that has the publisher's files as SRC."""

    def prepared(name: str) -> sr.Prepared:
        (tmp_path / "SRC").mkdir()
        PUBLISHED[name][0](tmp_path / "SRC")
        monkeypatch.chdir(tmp_path)
        exec(BY_TABLE[name].python, {})
        assert main(shlex.split(BY_TABLE[name].command)[1:]) == 0
        return sr.open_log(tmp_path / "DATA")

    return prepared


@pytest.mark.parametrize("name", BY_TABLE)
def test_the_lines_read_the_layout_of_the_publisher(prepared, name):
    found, expected = prepared(name).manifest, PUBLISHED[name][1]
    assert (found["users"], found["sessions"]) == (USERS, expected.sessions)
    assert (found["clicks"], found["exposures"]) == (expected.clicks, expected.exposures)
    assert found["rejected"] == {}


@pytest.mark.parametrize(("name", "user", "newest"), [("openonerec", "uid", -1), ("kuaisearch", "user_id", 30)])
def test_a_log_without_times_is_in_the_order_of_its_sessions(prepared, tmp_path, name, user, newest):
    """The target of OpenOneRec is last; the file of KuaiSearch has the newest session of user 3 first."""
    prepared(name)
    last = pl.read_parquet(tmp_path / "log.parquet").filter(pl.col(user) == 3).tail(1)
    assert last["session" if name == "openonerec" else "session_id"].item() == newest


def test_every_log_is_printed_with_its_lines_and_none_has_a_source(capsys):
    assert main(["sources"]) == 0
    printed = capsys.readouterr().out
    for name, log in BY_TABLE.items():
        assert name not in SOURCES
        assert log.python in printed
        assert f"\n{log.command}\n" in printed
    assert main(["sources", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {*SOURCES, *BY_TABLE}


def test_prepare_says_how_such_a_log_is_read(capsys):
    assert main(["prepare", "otto", "SRC", "--out", "DATA"]) == 2
    assert "read by the source table" in capsys.readouterr().err
