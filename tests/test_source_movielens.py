"""Tests MovieLens: the TFDS catalogue's own builder, run on small files in the publisher's layouts, writes the
input.
"""

from __future__ import annotations

import io
import types
from pathlib import Path
from unittest import mock

import pytest
import tensorflow_datasets as tfds
from published import prepared, side, stored_record, users
from tensorflow_datasets.structured import movielens as catalogue
from tensorflow_datasets.structured import movielens_parsing

from sessionrec_jax.data.sources import movielens
from sessionrec_jax.errors import InputError

NOW = 978_300_000  # 2000-12-31, in seconds
FILMS = range(1, 31)


def ratings():
    """Writes twelve users with four sittings of five films each: 240 ratings, not sorted by time."""
    return [
        (user, 1 + (user + 7 * sitting + place) % 30, 1 + (user + place) % 5, NOW + 7200 * sitting + 60 * (place // 2))
        for sitting in (2, 0, 3, 1)
        for user in range(1, 13)
        for place in range(5)
    ] + [(13, 1, 4, NOW)]  # one rating: no session to predict


def write_100k(folder):
    genres = ["|".join(str(int(place in (5, 4))) if film == 1 else "0" for place in range(19)) for film in FILMS]
    films = [f"{film}|Amélie (2001)|01-Jan-1995||http://us.imdb.com/|{genres[film - 1]}" for film in FILMS]
    people = [f"{user}|24|M|technician|85711" for user in range(1, 14)]
    rows = ["\t".join(map(str, row)) for row in ratings()]
    return {"u.item": films, "u.user": people, "u.data": rows}


def write_1m(folder):
    films = [f"{film}::Amélie (2001)::{GENRES.get(film, 'Drama')}" for film in FILMS]
    people = [f"{user}::F::1::10::48067" for user in range(1, 14)]
    return {"movies.dat": films, "users.dat": people, "ratings.dat": ["::".join(map(str, row)) for row in ratings()]}


def write_current(folder):
    films = [f'{film},"American President, The (1995)",{GENRES.get(film, "Drama")}' for film in FILMS]
    rows = [f"{user},{film},{stars - 0.5 * (film == 9)},{at}" for user, film, stars, at in ratings()]
    return {"movies.csv": ["movieId,title,genres", *films], "ratings.csv": ["userId,movieId,rating,timestamp", *rows]}


GENRES = {1: "Children's|Comedy", 2: "(no genres listed)"}
LAYOUTS = {"100k": write_100k, "1m": write_1m, "20m": write_current, "25m": write_current}


def opened(path, mode="r"):
    return Path(path).open(mode)


def build(data_dir, version, file_format="array_record"):
    """Runs the catalogue's builder. Its download is replaced, as TFDS's own tests do, TensorFlow's file by Python's."""
    files = data_dir / "unpacked" / f"ml-{version}"
    files.mkdir(parents=True)
    for name, lines in LAYOUTS[version](files).items():
        encoding = "utf-8" if name.endswith("csv") else "ISO-8859-1"
        (files / name).write_text("".join(f"{line}\n" for line in lines), encoding=encoding)
    if version in ("20m", "25m"):
        path = files / "movies.csv"
        path.write_text(path.read_text().replace("Children's", "Children"))
    gfile = types.SimpleNamespace(GFile=opened)
    tensorflow = types.SimpleNamespace(io=types.SimpleNamespace(gfile=gfile))
    builder = catalogue.Movielens(config=f"{version}-ratings", data_dir=data_dir, file_format=file_format)
    with (
        mock.patch.object(tfds.download.DownloadManager, "download_and_extract", return_value=str(files.parent)),
        mock.patch.object(movielens_parsing, "tf", tensorflow),
        mock.patch("sys.stdout", io.StringIO()),
    ):
        builder.download_and_prepare()
    return data_dir


@pytest.fixture(scope="module", params=LAYOUTS)
def built(request, tmp_path_factory):
    return request.param, build(tmp_path_factory.mktemp("tfds"), request.param)


def test_ratings_become_sessions(built, tmp_path):
    version, folder = built
    log = prepared(movielens.read(movielens.Options(folder, version)), tmp_path)
    assert log.manifest["rejected"] == {}
    assert (log.manifest["users"], log.manifest["sessions"], log.manifest["exposures"]) == (13, 49, 241)
    assert stored_record(log, 13) == [(NOW, "train", "1 clicked")]
    assert sorted(side(log, "genres", 1)) == (["Children", "Comedy"])
    assert side(log, "genres", 2) == []


def test_the_first_record(built, tmp_path):
    version, folder = built
    log = prepared(movielens.read(movielens.Options(folder, version)), tmp_path)
    assert users(log)[0] == 10
    assert stored_record(log, 10) == [
        (978300000, "train", "11 ignored, 12 ignored, 13 ignored, 14 clicked, 15 clicked"),
        (978307200, "train", "18 ignored, 19 ignored, 20 ignored, 21 clicked, 22 clicked"),
        (978314400, "validation", "25 ignored, 26 ignored, 27 ignored, 28 clicked, 29 clicked"),
        (978321600, "test", "2 ignored, 3 ignored, 4 ignored, 5 clicked, 6 clicked"),
    ]


def test_half_a_star_less_is_no_click(built, tmp_path):
    version, folder = built
    log = prepared(movielens.read(movielens.Options(folder, version)), tmp_path)
    of_film_9 = stored_record(log, 8)[0][2].partition(",")[0]
    assert of_film_9 == ("9 ignored" if version in ("20m", "25m") else "9 clicked")


def test_what_is_missing_is_named_with_the_command_that_makes_it(tmp_path):
    with pytest.raises(
        InputError, match=r"has no movielens/25m-ratings/\*/dataset_info.json[\s\S]*movielens/25m-ratings', data_dir"
    ):
        movielens.read(movielens.Options(tmp_path, "25m"))
    build(tmp_path, "25m")
    info = next(tmp_path.glob("movielens/25m-ratings/*/dataset_info.json"))
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(InputError, match="is in the format tfrecord, which needs TensorFlow; build it again"):
        movielens.read(movielens.Options(tmp_path, "25m"))
    info.write_text(info.read_text().replace("tfrecord", "array_record"))
    shard = next(info.parent.glob("*.array_record-*"))
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(InputError, match="cannot be read"):
        movielens.read(movielens.Options(tmp_path, "25m"))
