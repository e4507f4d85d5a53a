"""Tests RecFlow in its publisher's layout: a request is a session, stages are context, pickles are never opened."""

from __future__ import annotations

import pickle

import polars as pl
import pytest
from published import prepared, side, stored_record, users

from sessionrec_jax.data import session_log
from sessionrec_jax.data.preparation.prepare import Settings, prepare
from sessionrec_jax.data.sources import recflow
from sessionrec_jax.errors import InputError

NOW = 1_705_104_000_000  # 2024-01-13
DAY = 86_400_000
STAGES = ("rerank_pos", "rerank_neg", "rank_pos", "rank_neg", "coarse_neg", "prerank_neg")


def row(request, user, video, at, view=0, **other):
    """Returns a row of realshow/: a shown video, and the feedback on it."""
    features = {"author_id": video % 7, "category_level_one": video % 3, "category_level_two": video % 5}
    feedback = {"playing_time": 0, "effective_view": view, "long_view": 0, "like": 0, "follow": 0, "forward": 0}
    return {
        "request_id": request, "request_timestamp": at, "user_id": user, "device_id": 1, "age": 3, "gender": 1,
        "province": 7, "video_id": video, **features, "upload_type": 2, "upload_timestamp": NOW // 1000,
        "duration": 15_000, "realshow": 1, **dict.fromkeys(STAGES, 0), "rank_index": 1, "rerank_index": 1, **feedback,
        "comment": 0, **other,
    }  # fmt: skip


def candidate(request, user, video, at, *stages):
    return row(request, user, video, at, realshow=0, **dict.fromkeys(stages, 1))


def feed(day):
    """Writes six users, four requests of four videos each on each day; user 5 views nothing."""
    return [
        row(
            1000 * day + 10 * user + request,
            user,
            (user + 4 * request + place + day) % 40,
            NOW + DAY * day + 600_000 * request,
            int(place == request and user != 5),
        )
        for user in range(6)
        for request in range(4)
        for place in range(4)
    ]


# User 9: request 91 is older than 90 but comes after it and has the time of 92; seconds on the second day.
ODD = [
    row(90, 9, 1, NOW + 60_000, 1),
    row(90, 9, 2, NOW + 60_000, 0),
    row(90, 9, 2, NOW + 60_000, 0),  # an exact duplicate
    row(91, 9, 3, NOW, 0),
    row(92, 9, 4, NOW, 1),
    row(92, 9, 5, NOW, None),  # no label
    row(92, 9, 6, NOW, 0, realshow=0),  # not shown after all
    row(92, 9, 1, NOW, 0, author_id=99),  # another author than before: the first one is kept
]
ODD_NEXT_DAY = [
    row(93, 9, 1, (NOW + DAY) // 1000, 1),
    row(94, 8, 1, NOW + DAY, 1),  # a user with one session of one exposure
    row(95, None, 1, NOW + DAY, 1),
]
DROPPED = [
    row(90, 9, 1, NOW + 60_000, 1, rank_pos=1, rerank_pos=1),  # shown: is in realshow/ already
    candidate(90, 9, 30, NOW + 60_000, "rank_pos", "rerank_neg"),
    candidate(90, 9, 41, NOW + 60_000, "prerank_neg"),
    candidate(90, 9, 42, NOW + 60_000, "coarse_neg"),
    candidate(90, 9, 43, NOW + 60_000),
]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "RecFlow"
    for name in ("realshow", "all_stage", "others"):
        (folder / name).mkdir(parents=True)
    types = {"user_id": pl.Int64, "effective_view": pl.Int64}
    for day, odd in enumerate((ODD, ODD_NEXT_DAY)):
        file = f"2024-01-{13 + day}.feather"
        pl.DataFrame(feed(day) + odd, schema_overrides=types).write_ipc(folder / "realshow" / file, compression="lz4")
        dropped = pl.DataFrame(DROPPED if day == 0 else DROPPED[:1], schema_overrides=types)
        dropped.write_ipc(folder / "all_stage" / file)
    (folder / "others" / "id_cnt.pkl").write_bytes(pickle.dumps(Bomb()))
    return folder


class Bomb:
    """Unpickling it fails."""

    def __reduce__(self):
        return (exec, ("raise RuntimeError('a pickle was loaded')",))


def test_a_request_is_a_session_and_every_oddity_is_kept_or_counted(folder):
    log = prepared(recflow.read(recflow.Options(folder)), folder)
    assert log.manifest["rejected"] == {
        session_log.DUPLICATE: 1,
        session_log.NOT_BOOLEAN: 1,
        session_log.NULL_ID: 1,
        recflow.NOT_SHOWN: 1,
    }
    assert stored_record(log, 9) == [
        (NOW // 1000, "train", "3 ignored"),
        (NOW // 1000, "train", "4 clicked, 1 ignored"),
        (NOW // 1000 + 60, "validation", "1 clicked, 2 ignored"),
        (NOW // 1000 + 86_400, "test", "1 clicked"),
    ]
    assert stored_record(log, 8) == [(NOW // 1000 + 86_400, "train", "1 clicked")]
    assert all("clicked" not in items for _, _, items in stored_record(log, 5))
    assert side(log, "author_id", 1) == [1]
    assert log.manifest["items"] == 22
    assert "all_stage" in log.manifest["note"]


def test_the_first_record(folder):
    log = prepared(recflow.read(recflow.Options(folder)), folder)
    assert users(log)[0] == 3
    assert stored_record(log, 3) == [
        (1705104000, "train", "3 clicked, 4 ignored, 5 ignored, 6 ignored"),
        (1705104600, "train", "7 ignored, 8 clicked, 9 ignored, 10 ignored"),
        (1705105200, "train", "11 ignored, 12 ignored, 13 clicked, 14 ignored"),
        (1705105800, "train", "15 ignored, 16 ignored, 17 ignored, 18 clicked"),
        (1705190400, "train", "4 clicked, 5 ignored, 6 ignored, 7 ignored"),
        (1705191000, "train", "8 ignored, 9 clicked, 10 ignored, 11 ignored"),
        (1705191600, "validation", "12 ignored, 13 ignored, 14 clicked, 15 ignored"),
        (1705192200, "test", "16 ignored, 17 ignored, 18 ignored, 19 clicked"),
    ]


def test_candidates_are_context_of_their_last_stage(folder):
    options = recflow.Options(folder, stages=("rerank_neg", "prerank_neg"), session_context=("province",))
    log = prepared(recflow.read(options), folder)
    assert stored_record(log, 9)[2] == (
        NOW // 1000 + 60, "validation", "1 clicked, 2 ignored, 30 rerank_neg, 41 prerank_neg"
    )  # fmt: skip
    assert log.manifest["rejected"][recflow.NO_STAGE] == 1
    assert log.manifest["items"] == 24  # with the two that were never shown
    assert side(log, "author_id", 41) == [41 % 7]
    assert log.context_vocabulary("province").to_list() == [7]
    assert log.manifest["session_context"][0]["missing"] == 0


def test_what_is_missing_is_named(folder):
    (folder / "all_stage" / "2024-01-14.feather").unlink()
    with pytest.raises(InputError, match=r"only one of realshow/ and all_stage/ holds 2024-01-14.feather"):
        recflow.read(recflow.Options(folder, stages=("rank_neg",)))
    (folder / "realshow" / "2024-01-13.feather").write_bytes(b"ARROW1")
    with pytest.raises(InputError, match=r"2024-01-13.feather cannot be read"):
        recflow.read(recflow.Options(folder))
    for path in (folder / "realshow").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"has no realshow/\*.feather"):
        recflow.read(recflow.Options(folder))


def test_a_file_that_breaks_off_is_reported(folder):
    path = folder / "realshow" / "2024-01-14.feather"
    whole = path.read_bytes()
    path.write_bytes(whole[:200] + bytes(len(whole) - 400) + whole[-200:])
    with pytest.raises(InputError, match="cannot be read"):
        prepare(recflow.read(recflow.Options(folder)), folder / "prepared", Settings())
