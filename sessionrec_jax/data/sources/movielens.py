"""MovieLens from the TFDS catalogue: the ratings that its own builder wrote, read without TensorFlow.

MovieLens has neither exposures nor sessions. A film without a rating may or may not have been shown, and a session is a
run of ratings. It serves to check the code, not the idea.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl
import tensorflow_datasets as tfds
from tyro.conf import Positional

from sessionrec_jax.data.sources import RawLog
from sessionrec_jax.data.sources.files import File, locate
from sessionrec_jax.data.store import RAW, Example
from sessionrec_jax.errors import InputError

Version = Literal["100k", "1m", "20m", "25m"]
_VERSIONS: tuple[Version, ...] = ("100k", "1m", "20m", "25m")

NAME = "movielens"
TITLE = "MovieLens 100k, 1M, 20M and 25M: ratings of films, without sessions or exposures"
LICENCE = "GroupLens: research only, no redistribution"
SIZE = "100,000, 1.0 M, 20.0 M and 25.0 M ratings"
_COMMAND = (
    'python -c "import tensorflow_datasets as tfds; '
    "tfds.builder('movielens/{version}-ratings', data_dir='{folder}', file_format='array_record')"
    '.download_and_prepare()"'
)
WHERE = (
    "https://grouplens.org/datasets/movielens, by one command where tensorflow, tensorflow-datasets and array_record "
    "are installed: " + _COMMAND.format(version="1m", folder="SRC")
)
CITATION = "Harper and Konstan, The MovieLens Datasets, ACM TiiS 5(4), 2015"
FILES = tuple(
    File(
        f"movielens/{version}-ratings/*/dataset_info.json",
        "the ratings, as TFDS's own builder wrote them",
        f"--version {version}",
    )
    for version in _VERSIONS
)

LOWEST_CLICK = 4.0
"""A rating of at least this is a click; a lower one is an ignored exposure."""
_NO_GENRE = "(no genres listed)"
_RATINGS_PER_READ = 65_536


@dataclass(frozen=True)
class Options:
    path: Positional[Path]
    """The data_dir of TFDS in which its builder wrote the ratings (`sessionrec sources` shows the command)."""
    version: Version = "1m"
    """The data set to read."""


def read(options: Options) -> RawLog:
    """Reads ratings as exposures, 4 and up as clicks, and the rated films with their genres.

    Raises InputError, with the command that makes the data set, if it is missing or in another format.
    """
    try:
        found = locate(options.path, FILES, (f"--version {options.version}",))
    except InputError as error:
        command = _COMMAND.format(version=options.version, folder=options.path)
        raise InputError(f"{error}\nMade where TensorFlow is installed by {command}") from error
    folder = found[FILES[_VERSIONS.index(options.version)].pattern][-1].parent
    builder: Any = tfds.builder_from_directory(folder)  # TFDS's decorators hide the parameters of its methods
    if (kind := builder.info.file_format.value) != "array_record":
        raise InputError(
            f"{folder} is in the format {kind}, which needs TensorFlow; build it again with file_format='array_record'"
        )
    source = builder.as_data_source(split="train", deserialize_method=RAW)
    genres_of: dict[str, list[int]] = {}
    try:
        exposures = pl.concat([_ratings(records, genres_of) for records in _chunks(source)])
    except RuntimeError as error:  # the only error of ArrayRecord
        raise InputError(f"{folder} cannot be read: {str(error).splitlines()[0]}; build it again") from error
    exposures = exposures.sort("user_id", "timestamp_ms", "item_id")  # the builder shuffles, and times have ties
    names = [None if name == _NO_GENRE else name for name in builder.info.features["movie_genres"].feature.names]
    items = pl.DataFrame(
        {"item_id": list(genres_of), "genres": [[names[code] for code in codes] for codes in genres_of.values()]},
        schema={"item_id": pl.String, "genres": pl.List(pl.String)},
    )
    return RawLog(
        source=NAME,
        exposures=exposures,
        items=items.with_columns(pl.col("item_id").cast(pl.Int64, strict=False)),
        times="timestamp in what TFDS's builder wrote",
        session_rule="gap_minutes=30",
        note="Ratings, not exposures: a rating below 4 counts as an ignored exposure.",
    )


def _chunks(source: Any) -> Iterator[list[bytes]]:
    for first in range(0, len(source), _RATINGS_PER_READ):
        yield source.__getitems__(list(range(first, min(first + _RATINGS_PER_READ, len(source)))))


def _ratings(records: list[bytes], genres_of: dict[str, list[int]]) -> pl.DataFrame:
    """Returns the ratings of a chunk, and adds the genres of new films to `genres_of`."""
    users, films, seconds, stars = [], [], [], []
    for record in records:
        feature = Example.FromString(record).features.feature
        film = feature["movie_id"].bytes_list.value[0].decode()
        if film not in genres_of:
            genres_of[film] = list(feature["movie_genres"].int64_list.value)
        users.append(feature["user_id"].bytes_list.value[0].decode())
        films.append(film)
        seconds.append(feature["timestamp"].int64_list.value[0])
        stars.append(feature["user_rating"].float_list.value[0])
    table = pl.DataFrame({"user_id": users, "item_id": films, "seconds": seconds, "stars": stars})
    return table.select(
        pl.col("user_id", "item_id").cast(pl.Int64, strict=False),
        timestamp_ms=pl.col("seconds") * 1000,
        clicked=pl.col("stars") >= LOWEST_CLICK,
    )
