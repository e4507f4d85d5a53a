"""Tests EB-NeRD in its publisher's layout: sessions, clicks that were not in view, and the cut of the history."""

from __future__ import annotations

import datetime

import polars as pl
import pytest
from published import prepared, side, stored_record, users

from sessionrec_jax.data import session_log
from sessionrec_jax.data.sources import ebnerd
from sessionrec_jax.errors import InputError

TRAIN = datetime.datetime(2023, 5, 18, 7)
WEEK = datetime.timedelta(days=7)
MINUTE = datetime.timedelta(minutes=1)
BEHAVIOR = {
    "impression_id": pl.UInt32, "article_id": pl.Float64, "impression_time": pl.Datetime("us"), "read_time": pl.Float32,
    "scroll_percentage": pl.Float32, "device_type": pl.Int8, "article_ids_inview": pl.List(pl.Int32),
    "article_ids_clicked": pl.List(pl.Int32), "user_id": pl.UInt32, "is_sso_user": pl.Boolean, "gender": pl.Int8,
    "postcode": pl.Int8, "age": pl.Int8, "is_subscriber": pl.Boolean, "session_id": pl.UInt32,
    "next_read_time": pl.Float32, "next_scroll_percentage": pl.Float32,
}  # fmt: skip
HISTORY = {
    "user_id": pl.UInt32,
    "impression_time_fixed": pl.List(pl.Datetime("us")),
    "scroll_percentage_fixed": pl.List(pl.Float32),
    "article_id_fixed": pl.List(pl.Int32),
    "read_time_fixed": pl.List(pl.Float32),
}


def impression(number, visit, user, at, inview, clicked):
    return {
        "impression_id": number, "article_id": None, "impression_time": at, "read_time": 17.0, "device_type": 2,
        "article_ids_inview": inview, "article_ids_clicked": clicked, "user_id": user, "is_sso_user": False,
        "is_subscriber": False, "session_id": visit, "next_read_time": 8.0,
    }  # fmt: skip


def feed(start):
    """Writes ten users with two visits of two impressions of five articles: 200 exposures. Numbers are the same
    each week.
    """
    return [
        impression(
            40 * visit + 4 * user + part,
            10 * visit + user,
            user,
            start + visit * 600 * MINUTE + part * MINUTE,
            [1000 + (user + 5 * part + 7 * visit + place) % 25 for place in range(5)],
            [1000 + (user + 5 * part + 7 * visit + user % 5) % 25],
        )
        for user in range(10)
        for visit in range(2)
        for part in range(2)
    ]


ODD_TRAIN = [
    impression(901, 90, 20, TRAIN + 2 * MINUTE, [1003], [1003]),  # not in time order; one exposure
    impression(900, 90, 20, TRAIN, [1001, 1002, 1001], [1002, 1005]),  # twice in view; clicked, but not in view
    impression(902, 91, 21, TRAIN, [1001, 1002], []),  # a user with one session, in which nothing is clicked
    impression(903, 92, 20, TRAIN + 3 * MINUTE, [1001, 1099], [1001]),  # no such article
    impression(904, 93, 20, TRAIN + 4 * MINUTE, None, [1001]),  # nothing in view
    impression(905, 94, 20, TRAIN + 4 * MINUTE, [1001, 1002], None),  # no clicks, as in the test set
]
ODD_VALIDATION = [impression(900, 90, 20, TRAIN + WEEK, [1004], [1004])]  # the numbers of other ones
# User 20's clicks in the train week after the first impression are in behaviors.parquet already.
CLICKS = {
    "train": {20: [(-100, 1010), (-90, 1011), (-50, 1012)], 30: [(-10, 1001)]},
    "validation": {20: [(-90, 1011), (-50, 1012), (1, 1002)], 21: [(-5, 1013)]},
}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "ebnerd_small"
    for number, (split, odd) in enumerate((("train", ODD_TRAIN), ("validation", ODD_VALIDATION))):
        (folder / split).mkdir(parents=True)
        rows = feed(TRAIN + number * WEEK) + odd
        pl.DataFrame(rows, schema=BEHAVIOR).write_parquet(folder / split / "behaviors.parquet")
        clicks = [
            [user, [TRAIN + at * MINUTE for at, _ in of_user], None, [article for _, article in of_user], None]
            for user, of_user in CLICKS[split].items()
        ]
        pl.DataFrame(clicks, schema=HISTORY, orient="row").write_parquet(folder / split / "history.parquet")
    articles = pl.DataFrame({"article_id": range(1000, 1025)}, schema={"article_id": pl.Int32}).with_columns(
        title=pl.lit("Ét eksempel"),
        premium=pl.col("article_id") % 2 == 0,
        article_type=pl.lit("article_default"),
        category=pl.lit(118, pl.Int16),
        subcategory=pl.when(pl.col("article_id") % 3 == 0).then([133, 195]).otherwise(pl.lit([], pl.List(pl.Int16))),
        topics=pl.lit(["Kriminalitet", "Politik"]),
        sentiment_label=pl.lit("Negative"),
        total_pageviews=pl.lit(12, pl.Int32),
    )  # fmt: skip
    articles.write_parquet(folder / "articles.parquet")
    return folder


def seconds(at):
    return int((at - datetime.datetime(1970, 1, 1)).total_seconds())


def test_an_impression_is_a_session_and_every_oddity_is_kept_or_counted(folder):
    log = prepared(ebnerd.read(ebnerd.Options(folder)), folder)
    assert log.manifest["rejected"] == {
        session_log.DUPLICATE: 1,
        session_log.UNKNOWN_ITEM: 1,
        session_log.NULL_ID: 1,
        session_log.NOT_BOOLEAN: 2,
    }
    assert stored_record(log, 20) == [
        (seconds(TRAIN), "train", "1001 ignored, 1002 clicked, 1005 clicked"),
        (seconds(TRAIN + 2 * MINUTE), "train", "1003 clicked"),
        (seconds(TRAIN + 3 * MINUTE), "validation", "1001 clicked"),
        (seconds(TRAIN + WEEK), "test", "1004 clicked"),
    ]
    assert stored_record(log, 21) == [(seconds(TRAIN), "train", "1001 ignored, 1002 ignored")]
    assert (side(log, "subcategory", 1002), side(log, "subcategory", 1003)) == ([133, 195], [])
    assert (side(log, "premium", 1002), side(log, "category", 1002)) == ([True], [118])
    assert "history" in log.manifest["note"]


def test_the_first_record(folder):
    log = prepared(ebnerd.read(ebnerd.Options(folder)), folder)
    assert users(log)[:2] == [21, 3]
    week = [
        (0, "1003 ignored, 1004 ignored, 1005 ignored, 1006 clicked, 1007 ignored"),
        (60, "1008 ignored, 1009 ignored, 1010 ignored, 1011 clicked, 1012 ignored"),
        (36_000, "1010 ignored, 1011 ignored, 1012 ignored, 1013 clicked, 1014 ignored"),
        (36_060, "1015 ignored, 1016 ignored, 1017 ignored, 1018 clicked, 1019 ignored"),
    ]
    roles = iter(["train"] * 6 + ["validation", "test"])
    assert stored_record(log, 3) == [
        (start + after, next(roles), items) for start in (1684393200, 1684998000) for after, items in week
    ]


def test_a_visit_is_a_key_only_together_with_its_split(folder):
    log = prepared(ebnerd.read(ebnerd.Options(folder, session="visit")), folder)
    assert stored_record(log, 20) == [
        (seconds(TRAIN), "train", "1001 ignored, 1002 clicked, 1005 clicked, 1003 clicked"),
        (seconds(TRAIN + 3 * MINUTE), "validation", "1001 clicked"),
        (seconds(TRAIN + WEEK), "test", "1004 clicked"),
    ]


def test_the_device_of_an_impression_is_context_of_its_session(folder):
    options = ebnerd.Options(folder, history=True, session_context=("device_type", "is_subscriber"))
    log = prepared(ebnerd.read(options), folder)
    device, subscriber = log.manifest["session_context"]
    histories = sum(" history" in items for user in users(log) for _, _, items in stored_record(log, user))
    assert (device["values"], device["missing"]) == (subscriber["values"], subscriber["missing"]) == (1, histories)
    assert (log.context_vocabulary("device_type")[0], log.context_vocabulary("is_subscriber")[0]) == (2, "false")


def test_the_history_ends_where_the_users_impressions_begin(folder):
    log = prepared(ebnerd.read(ebnerd.Options(folder, history=True)), folder)
    assert stored_record(log, 20)[:3] == [
        (seconds(TRAIN - 100 * MINUTE), "train", "1010 history, 1011 history"),
        (seconds(TRAIN - 50 * MINUTE), "train", "1012 history"),
        (seconds(TRAIN), "train", "1001 ignored, 1002 clicked, 1005 clicked"),
    ]
    assert stored_record(log, 21)[0] == (seconds(TRAIN - 5 * MINUTE), "train", "1013 history")
    rejected = log.manifest["rejected"]
    assert (rejected[ebnerd.AFTER_FIRST], rejected[ebnerd.NO_IMPRESSION]) == (1, 1)
    assert rejected[session_log.DUPLICATE] == 3  # two of them are in both histories


def test_articles_and_validation_may_be_missing(folder):
    (folder / "articles.parquet").unlink()
    for path in (folder / "validation").iterdir():
        path.unlink()
    log = prepared(ebnerd.read(ebnerd.Options(folder)), folder)
    assert log.manifest["items"] == 26  # the seen articles, 1099 too
    assert "no side information" in log.manifest["note"]


def test_what_is_missing_is_named(folder):
    (folder / "train" / "history.parquet").unlink()
    with pytest.raises(InputError, match=r"has no train/history.parquet\. Wanted"):
        ebnerd.read(ebnerd.Options(folder, history=True))
    pl.DataFrame({"user_id": [1]}).write_parquet(folder / "train" / "behaviors.parquet")
    with pytest.raises(InputError, match="lacks the published column 'impression_id'"):
        ebnerd.read(ebnerd.Options(folder))
