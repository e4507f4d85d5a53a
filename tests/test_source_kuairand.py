"""Tests KuaiRand in its publisher's layout, all three versions, and the real rows of KuaiRand-Pure where they are
available.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from contract import check
from published import csv, prepared, side, stored_record, users, write_lines

from sessionrec_jax.data import session_log
from sessionrec_jax.data.sources import kuairand
from sessionrec_jax.errors import InputError

REAL = Path(__file__).parents[1].parent / "shared" / "data" / "kuairand_pure"
NOW = 1_650_882_384_975  # 2022-04-25
HOUR = 3_600_000
LOG = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab"
)
VIDEO = (
    "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,server_height,"
    "music_id,music_type,tag"
)
PARTS = {"pure": [""], "1k": [""], "27k": ["_part1", "_part2"]}


def shown(user, video, at, click, random=0):
    return [user, video, 20220425, 1800, at, click, 0, 0, 0, 0, 0, click, 1033, 168241, 0, 0, 0, random, 1]


def feed(first_hour, parity):
    """Writes eight users with three sessions of up to five videos, a minute apart; user 7 clicks nothing."""
    return [
        shown(user, (user + 5 * session + place) % 30, NOW + (first_hour + session) * HOUR + 60_000 * place, click)
        for user in range(8)
        for session in range(3)
        for place in range(5)
        for click in [int(place == session and user != 7)]
        if (user + place) % 2 == parity or parity == 2
    ]


ODD = [
    shown(20, 1, NOW + HOUR, 1),  # the rows of user 20 are not in time order
    shown(20, 2, NOW, 0),
    shown(20, 2, NOW, 0),  # an exact duplicate
    shown(20, 3, NOW, 0),  # several videos at one time
    shown(20, 4, NOW + 30 * 60_000, 1),  # just within the gap
    shown(20, 900, NOW, 1),  # a video without features
    shown(20, 5, NOW, ""),  # no label
    shown(21, 6, NOW, 0),  # a user with one session of one exposure
]
RANDOM = [shown(20, 10 + n, NOW + 2 * HOUR, n % 2, random=1) for n in range(3)]


def write(folder, version):
    """Writes all files of a version: a period's log is cut into its parts, and the odd rows are in the last one."""
    parts = PARTS[version]
    for period, hour, odd in (("4_08_to_4_21", -240, []), ("4_22_to_5_08", 0, ODD)):
        for number, part in enumerate(parts):
            rows = feed(hour, 2 if len(parts) == 1 else number) + (odd if number == len(parts) - 1 else [])
            write_lines(folder / f"log_standard_{period}_{version}{part}.csv", LOG, *csv(*rows))
    write_lines(folder / f"log_random_4_22_to_5_08_{version}.csv", LOG, *csv(*RANDOM))
    videos = [
        f"{video},{video % 7},{'AD' if video == 3 else 'NORMAL'},2022-04-10,LongImport,0.0,87433.0,720.0,1280.0,"
        + ("9155697141,9.0," + ('"39,12"' if video % 2 else "39") if video != 5 else "1,,")
        for video in range(30)
    ]
    write_lines(folder / f"video_features_basic_{version}.csv", VIDEO, *videos)
    write_lines(folder / f"user_features_{version}.csv", "user_id,user_active_degree", "0,full_active")
    write_lines(folder / f"video_features_statistic_{version}.csv", "video_id,counts", "0,1")


@pytest.fixture(params=PARTS)
def folder(request, tmp_path):
    folder = tmp_path / f"KuaiRand-{request.param}"
    write(folder / "data", request.param)
    return folder


def test_a_pause_ends_a_session_and_every_oddity_is_kept_or_counted(folder):
    log = prepared(kuairand.read(kuairand.Options(folder)), folder)
    assert log.manifest["rejected"] == {
        session_log.DUPLICATE: 1,
        session_log.UNKNOWN_ITEM: 1,
        session_log.NOT_BOOLEAN: 1,
    }
    assert log.manifest["rows"] == 8 * 3 * 5 * 2 + len(ODD)
    assert stored_record(log, 20) == [(1650882384, "train", "2 ignored, 3 ignored, 4 clicked, 1 clicked")]
    assert stored_record(log, 21) == [(1650882384, "train", "6 ignored")]
    assert all("clicked" not in items for _, _, items in stored_record(log, 7))
    assert (side(log, "tag", 1), side(log, "tag", 2), side(log, "tag", 5)) == (["39", "12"], ["39"], [])
    assert (side(log, "music_type", 1), side(log, "music_type", 5)) == ([9], [])
    assert side(log, "video_type", 3) == ["AD"]
    assert "log_random_4_22_to_5_08" in log.manifest["note"]


def test_the_first_record_with_a_history(folder):
    log = prepared(kuairand.read(kuairand.Options(folder)), folder)
    assert users(log)[:2] == [21, 3]
    assert stored_record(log, 3) == [
        (1650018384, "train", "3 clicked, 4 ignored, 5 ignored, 6 ignored, 7 ignored"),
        (1650021984, "train", "8 ignored, 9 clicked, 10 ignored, 11 ignored, 12 ignored"),
        (1650025584, "train", "13 ignored, 14 ignored, 15 clicked, 16 ignored, 17 ignored"),
        (1650882384, "train", "3 clicked, 4 ignored, 5 ignored, 6 ignored, 7 ignored"),
        (1650885984, "validation", "8 ignored, 9 clicked, 10 ignored, 11 ignored, 12 ignored"),
        (1650889584, "test", "13 ignored, 14 ignored, 15 clicked, 16 ignored, 17 ignored"),
    ]


def test_the_random_log_is_an_option(folder):
    log = prepared(kuairand.read(kuairand.Options(folder, random_log=True)), folder)
    assert stored_record(log, 20)[-1] == (1650882384 + 7200, "test", "10 ignored, 11 clicked, 12 ignored")
    assert log.manifest["note"] == ""


def test_the_tab_and_the_local_hour_are_session_context(tmp_path):
    write(tmp_path, "pure")
    log = prepared(kuairand.read(kuairand.Options(tmp_path, session_context=("hourmin", "tab"))), tmp_path)
    assert [log.context_vocabulary(name).to_list() for name in ("hourmin", "tab")] == [[1800], [1]]


def test_any_of_the_standard_logs_may_be_missing(tmp_path):
    write(tmp_path, "1k")
    (tmp_path / "log_standard_4_08_to_4_21_1k.csv").unlink()
    assert len(kuairand.read(kuairand.Options(tmp_path)).exposures.collect()) == 8 * 3 * 5 + len(ODD)


def test_what_does_not_fit_is_named(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        kuairand.read(kuairand.Options(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"no log_standard_\*.csv and no video_features_basic_\*.csv"):
        kuairand.read(kuairand.Options(tmp_path))
    write(tmp_path, "pure")
    (tmp_path / "log_random_4_22_to_5_08_pure.csv").unlink()
    with pytest.raises(InputError, match=r"no log_random_\*.csv"):
        kuairand.read(kuairand.Options(tmp_path, random_log=True))
    path = tmp_path / "log_standard_4_22_to_5_08_pure.csv"
    path.write_text(path.read_text().replace("is_click", "is_clicked"))
    with pytest.raises(InputError, match="lacks the published column 'is_click'; did you mean 'is_clicked'"):
        kuairand.read(kuairand.Options(tmp_path))
    path.write_text("")
    with pytest.raises(InputError, match="is empty: it has not even a header"):
        kuairand.read(kuairand.Options(tmp_path))


@pytest.mark.parametrize(
    ("files", "cure"),
    [
        ("log_standard_*", r"2022-04-25 when read as s\. Multiply time_ms in log_\*\.csv by 1000$"),
        ("log_standard_4_08*", r"after 2100: \d+, is a part of time_ms in log_\*\.csv in another unit\?"),
    ],
)
def test_times_in_another_unit_are_put_right_in_the_files(tmp_path, files, cure):
    write(tmp_path, "pure")
    for path in tmp_path.glob(files):
        path.write_text(re.sub(r"(,16\d{8})\d{3},", r"\1,", path.read_text()))
    with pytest.raises(InputError, match=cure) as refusal:
        prepared(kuairand.read(kuairand.Options(tmp_path)), tmp_path)
    assert "--time-unit" not in str(refusal.value)


def test_two_versions_are_not_mixed(tmp_path):
    write(tmp_path, "pure")
    write(tmp_path, "27k")
    with pytest.raises(InputError, match="files of 27k and pure, whose ids are not the same"):
        kuairand.read(kuairand.Options(tmp_path))


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real KuaiRand-Pure is not in {REAL.parent.name}/{REAL.name}")
def test_real_rows():
    raw = kuairand.read(kuairand.Options(REAL))
    checked = check(raw.exposures, raw.items["item_id"])
    assert dict(checked.reasons["reason"].value_counts().iter_rows()) == {
        session_log.DUPLICATE: 5884,
        session_log.CONTRADICTION: 1,
    }
    assert len(checked.exposures) == 228_329 - 5885
    assert checked.exposures["user_id"].n_unique() == 25_156
