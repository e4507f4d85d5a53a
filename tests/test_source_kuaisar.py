"""Tests KuaiSAR in its publisher's layout: requests, every oddity, and the search log as context."""

from __future__ import annotations

import pytest
from published import csv, prepared, side, stored_record, users, write_lines

from sessionrec_jax.data import session_log
from sessionrec_jax.data.sources import kuaisar
from sessionrec_jax.errors import InputError

NOW = 1_684_742_000_000  # 2023-05-22
REC = "user_id,item_id,playing_time,duration_ms,time,timestamp,click,forward,like,follow,search,search_item_related"
SRC = (
    "user_id,search_session_id,search_session_time,search_session_timestamp,keyword,search_source,item_id,click_cnt,"
    "item_type"
)
ITEM = (
    "item_id,caption,author_id,item_type,upload_time,upload_type,first_level_category_id,first_level_category_name,"
    "first_level_category_name_en,second_level_category_id,second_level_category_name,second_level_category_name_en,"
    "third_level_category_id,third_level_category_name,third_level_category_name_en,fourth_level_category_id,"
    "fourth_level_category_name,fourth_level_category_name_en"
)


def shown(user, item, at, click):
    return [user, item, 60792.0, 45400.0, "2023-05-22 15:53:20", f"{at}.0" if at else "", click, 0, 0, 0, 0, 0]


def found(user, session, at, item, clicks, kind="VIDEO"):
    return [user, session, "2023-05-22 21:58:52", at, '"[20, 34, 3]"', "USER_INPUT", item, clicks, kind]


def feed():
    """Writes ten users, six requests of four videos each; user 9 clicks nothing."""
    return [
        shown(user, 100 + (user + 4 * request + place) % 30, NOW + 600_000 * request + user, int(place == user % 4))
        if user != 9
        else shown(user, 100 + request, NOW + 600_000 * request, 0)
        for user in range(10)
        for request in range(6)
        for place in range(4 if user != 9 else 1)
    ]


ODD = [
    shown(20, 101, NOW + 900_000, 1),  # the rows of user 20 are not in time order
    shown(20, 100, NOW, 0),
    shown(20, 102, NOW, 1),
    shown(20, 102, NOW, 1),  # an exact duplicate
    shown(20, 100, NOW, 1),  # a duplicate with another label: the clicked one stays
    shown(20, 103, NOW, ""),  # no label
    shown(20, 999, NOW, 1),  # no such video
    shown(20, 104, NOW // 1000, 1),  # in seconds
    shown(20, 104, "", 1),  # without a time
    shown("x", 104, NOW, 1),  # no such user id
    shown(21, 104, NOW, 1),  # a user with one session of one exposure
]
RESULTS = [
    found(20, 7, NOW + 500_000, 105, 2),  # clicked twice
    found(20, 7, NOW + 500_000, 106, 0),
    found(20, 7, NOW + 500_000, 107, 0, "USER"),  # a person, whose id is a video's too
    found(20, 7, NOW + 500_000, 107, "", "IMAGE_ATLAS"),  # no count
]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "KuaiSAR_final"
    write_lines(folder / "rec_inter.csv", REC, *csv(*feed(), *ODD))
    write_lines(folder / "src_inter.csv", SRC, *csv(*RESULTS))
    none = ["空", "empty"]
    videos = [
        [
            item,
            '"[1, 213, 24]"',
            item % 7,
            "NORMAL",
            "1970-01-01",
            "LongImport",
            9,
            "搞笑",
            "Funny",
            item % 2,
            *none,
            0,
            *none,
            0,
            *none,
        ]
        for item in range(100, 130)
    ]
    write_lines(folder / "item_features.csv", ITEM, *csv(*videos))
    with (folder / "item_features.csv").open("ab") as file:  # a caption that is not UTF-8
        file.write(b'130,"\xff\xfe",0,NORMAL,1970-01-01,LongImport,0,,,0,,,0,,,0,,\n')
    return folder


def test_a_request_is_a_session_and_every_oddity_is_kept_or_counted(folder):
    log = prepared(kuaisar.read(kuaisar.Options(folder)), folder)
    assert log.manifest["rejected"] == {
        session_log.DUPLICATE: 1,
        session_log.CONTRADICTION: 1,
        session_log.NOT_BOOLEAN: 1,
        session_log.UNKNOWN_ITEM: 1,
        session_log.ABSURD_TIME: 1,
        session_log.NOT_A_TIME: 1,
        session_log.NULL_ID: 1,
    }
    assert log.manifest["settings"]["session_rule"] == "same_timestamp"
    assert stored_record(log, 20) == [
        (NOW // 1000, "train", "102 clicked, 100 clicked"),
        (NOW // 1000 + 900, "test", "101 clicked"),
    ]
    assert stored_record(log, 21) == [(NOW // 1000, "train", "104 clicked")]
    assert [items for _, _, items in stored_record(log, 9)] == [f"{item} ignored" for item in range(100, 106)]
    assert (side(log, "author_id", 106), side(log, "author_id", 105)) == ([1], [])  # 0 is padding
    assert side(log, "second_level_category_id", 101) == [1]
    assert side(log, "third_level_category_id", 101) == []
    assert log.manifest["items"] == 31
    assert "src_inter.csv" in log.manifest["note"]


def test_the_first_record_with_a_history(folder):
    log = prepared(kuaisar.read(kuaisar.Options(folder)), folder)
    assert users(log) == [21, 3, 20, 5, 7, 4, 1, 2, 8, 9, 6, 0]
    assert stored_record(log, 3) == [
        (1684742000, "train", "103 ignored, 104 ignored, 105 ignored, 106 clicked"),
        (1684742600, "train", "107 ignored, 108 ignored, 109 ignored, 110 clicked"),
        (1684743200, "train", "111 ignored, 112 ignored, 113 ignored, 114 clicked"),
        (1684743800, "train", "115 ignored, 116 ignored, 117 ignored, 118 clicked"),
        (1684744400, "validation", "119 ignored, 120 ignored, 121 ignored, 122 clicked"),
        (1684745000, "test", "123 ignored, 124 ignored, 125 ignored, 126 clicked"),
    ]


def test_search_results_are_context(folder):
    log = prepared(kuaisar.read(kuaisar.Options(folder, search_log=True)), folder)
    assert stored_record(log, 20)[1] == (NOW // 1000 + 500, "validation", "105 search_clicked, 106 search_ignored")
    assert log.manifest["rejected"][kuaisar.NO_VIDEO] == 1
    assert log.manifest["rejected"][session_log.NOT_BOOLEAN] == 2
    assert log.manifest["context_exposures"] == 2


def test_what_is_missing_is_named(folder):
    (folder / "src_inter.csv").unlink()
    assert kuaisar.read(kuaisar.Options(folder)).note == ""
    with pytest.raises(InputError, match=r"has no src_inter.csv\. Wanted a folder that holds\n  rec_inter.csv"):
        kuaisar.read(kuaisar.Options(folder, search_log=True))
    with pytest.raises(InputError, match=f"They are in {folder}: give that folder"):
        kuaisar.read(kuaisar.Options(folder.parent))
