"""Tests MIND in its publisher's layout: an impression is a session, quotes are letters, the history comes first."""

from __future__ import annotations

import pytest
from published import prepared, side, stored_record, users, write_lines

from sessionrec_jax.data import session_log
from sessionrec_jax.data.sources import mind
from sessionrec_jax.errors import InputError

NOON = 1_573_473_600  # 11/11/2019 12:00:00 PM, in seconds


def impression(number, user, time, history, shown):
    return "\t".join([str(number), user, time, history, shown])


def feed(day):
    """Writes ten users with four impressions of five articles: 200 exposures. Numbers are the same each day."""
    return [
        impression(
            4 * user + part,
            f"U{user}",
            f"11/{day}/2019 {1 + part}:05:0{user} {'AM' if part < 2 else 'PM'}",
            f"N{user} N{user + 1}",
            " ".join(f"N{(user + 5 * part + place) % 25}-{int(place == part)}" for place in range(5)),
        )
        for user in range(10)
        for part in range(4)
    ]


ODD_TRAIN = [
    impression(902, "U20", "11/11/2019 12:05:00 PM", "N9", "N3-1"),  # not in time order; another history
    impression(901, "U20", "11/11/2019 12:00:00 PM", "N7 N8 N7", "N1-0 N2-1 N1-0"),  # shown and clicked twice
    impression(903, "U21", "11/11/2019 9:05:58 AM", "", "N1-0 N2-0"),  # no history, one session, no click
    impression(904, "U20", "11/12/2019 9:05:58 AM", "N7", "N1-0 N99999-1"),  # no such article
    impression(905, "U20", "11/12/2019 9:05:58 AM", "N7", "N1 N2"),  # no labels, as in the test set
    impression(906, "U20", "2019-11-12T09:05", "N7", "N1-1"),  # another kind of time
    impression(907, "U20", "11/12/2019 9:05:58 AM", "N7", ""),  # nothing shown
    "908\tU20\t11/12/2019 9:05:58 AM",  # a line that breaks off
]
ODD_DEV = [impression(901, "U20", "11/15/2019 12:00:00 AM", "N7 N8 N9", "N4-1 N30-0")]  # the number of another one


@pytest.fixture
def folder(tmp_path):
    for split, day, odd in (("train", 11, ODD_TRAIN), ("dev", 15, ODD_DEV)):
        folder = tmp_path / f"MINDsmall_{split}"
        write_lines(folder / "behaviors.tsv", *feed(day), *odd)
        news = [
            f'N{item}\tnews\tnews{item % 3}\t"Quoted, only here\t\thttps://assets.msn.com/labs/mind/{item}.html\t[]\t[]'
            for item in (range(25) if split == "train" else range(5, 31))
        ]
        write_lines(folder / "news.tsv", *news)
        write_lines(folder / "entity_embedding.vec", "Q42306013\t0.014516\t-0.106958")
    return tmp_path


def test_an_impression_is_a_session_and_every_oddity_is_kept_or_counted(folder):
    log = prepared(mind.read(mind.Options(folder)), folder)
    assert log.manifest["rejected"] == {
        session_log.DUPLICATE: 1,
        session_log.UNKNOWN_ITEM: 1,
        session_log.NOT_BOOLEAN: 2,
        session_log.NOT_A_TIME: 1,
        session_log.NULL_ID: 2,
    }
    assert stored_record(log, "U20") == [
        (NOON, "train", "N1 ignored, N2 clicked"),
        (NOON + 300, "train", "N3 clicked"),
        (NOON + 21 * 3600 + 358, "validation", "N1 ignored"),
        (NOON + 3 * 86_400 + 43_200, "test", "N4 clicked, N30 ignored"),
    ]
    assert stored_record(log, "U21") == [(NOON - 3 * 3600 + 358, "train", "N1 ignored, N2 ignored")]
    assert log.manifest["items"] == 31
    assert (side(log, "category", "N30"), side(log, "subcategory", "N29")) == (["news"], ["news2"])
    assert "history" in log.manifest["note"]


def test_the_first_record(folder):
    log = prepared(mind.read(mind.Options(folder)), folder)
    assert users(log)[0] == "U8"
    assert stored_record(log, "U8") == [
        (1573434308, "train", "N8 clicked, N9 ignored, N10 ignored, N11 ignored, N12 ignored"),
        (1573437908, "train", "N13 ignored, N14 clicked, N15 ignored, N16 ignored, N17 ignored"),
        (1573484708, "train", "N18 ignored, N19 ignored, N20 clicked, N21 ignored, N22 ignored"),
        (1573488308, "train", "N23 ignored, N24 ignored, N0 ignored, N1 clicked, N2 ignored"),
        (1573779908, "train", "N8 clicked, N9 ignored, N10 ignored, N11 ignored, N12 ignored"),
        (1573783508, "train", "N13 ignored, N14 clicked, N15 ignored, N16 ignored, N17 ignored"),
        (1573830308, "validation", "N18 ignored, N19 ignored, N20 clicked, N21 ignored, N22 ignored"),
        (1573833908, "test", "N23 ignored, N24 ignored, N0 ignored, N1 clicked, N2 ignored"),
    ]


def test_the_history_of_the_first_impression_comes_before_it(folder):
    log = prepared(mind.read(mind.Options(folder, history=True)), folder)
    assert stored_record(log, "U20")[:2] == [
        (NOON - 1, "train", "N7 history, N8 history"),
        (NOON, "train", "N1 ignored, N2 clicked"),
    ]
    assert log.manifest["rejected"][session_log.DUPLICATE] == 2
    assert len(stored_record(log, "U21")) == 1
    assert log.manifest["context_exposures"] == 10 * 2 + 2


def test_the_dev_set_may_be_missing_and_the_train_set_may_not(folder):
    for path in (folder / "MINDsmall_dev").iterdir():
        path.unlink()
    assert prepared(mind.read(mind.Options(folder)), folder).manifest["items"] == 25
    (folder / "MINDsmall_train" / "news.tsv").unlink()
    with pytest.raises(InputError, match=r"has no \*train/news.tsv\. Wanted"):
        mind.read(mind.Options(folder))


def test_small_and_large_are_not_mixed(folder):
    (folder / "MINDsmall_train").rename(folder / "MINDlarge_train")
    with pytest.raises(InputError, match="MINDlarge_train and MINDsmall_dev are of two versions"):
        mind.read(mind.Options(folder))
