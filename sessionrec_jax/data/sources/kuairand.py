"""KuaiRand (Pure, 1K, 27K) as published: standard feed logs and the basic features of videos."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl
from tyro.conf import Positional

from sessionrec_jax.data.sources import RawLog
from sessionrec_jax.data.sources.table import read_files
from sessionrec_jax.errors import InputError, near_miss

NAME = "kuairand"
TITLE = "KuaiRand-Pure, -1K and -27K: a short-video feed"
LICENCE = "CC BY-SA 4.0"
WHERE = "https://kuairand.com"
CITATION = "Gao et al., KuaiRand, CIKM 2022, arXiv 2208.08696"
FILES = ("log_standard_*.csv", "video_features_basic_*.csv", "log_random_*.csv (with --random-log)")

_COLUMNS = {"user_id": "user_id", "video_id": "item_id", "time_ms": "timestamp_ms", "is_click": "clicked"}
_SIDE = ("author_id", "video_type", "upload_type", "music_type", "tag")


@dataclass(frozen=True)
class Options:
    path: Positional[Path]
    """The unpacked folder, or its data/ folder. Any of the log files may be missing."""
    random_log: bool = False
    """Take the log of randomly inserted videos in as well; it is not what a feed shows on its own accord."""


def read(options: Options) -> RawLog:
    """All log files that are there as exposures, `is_click` as the click; the video features as the item table.

    A video without features is no item: its exposures are rejected. Raises InputError naming the files or columns that
    are missing.
    """
    folder = options.path / "data" if (options.path / "data").is_dir() else options.path
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; wanted the unpacked KuaiRand folder with {', '.join(FILES[:2])}")
    wanted = ["log_standard_*.csv", "video_features_basic_*.csv", *(["log_random_*.csv"] if options.random_log else [])]
    missing = [pattern for pattern in wanted if not any(folder.glob(pattern))]
    if missing:
        raise InputError(f"{folder} has no {' and no '.join(missing)}; wanted the unpacked KuaiRand folder")
    logs = [_log(folder / pattern) for pattern in wanted if pattern.startswith("log_")]
    left_out = sorted(path.name for path in folder.glob("log_random_*.csv")) if not options.random_log else []
    return RawLog(
        source=NAME,
        exposures=pl.concat(logs, how="vertical_relaxed"),
        items=_videos(folder / "video_features_basic_*.csv"),
        session_rule="gap_minutes=30",
        note=f"left out: {', '.join(left_out)} (--random-log takes it in)" if left_out else "",
    )


def _log(pattern: Path) -> pl.DataFrame:
    table = read_files(str(pattern))
    return table.select(_column(table, published, pattern).alias(name) for published, name in _COLUMNS.items())


def _videos(pattern: Path) -> pl.DataFrame:
    table = read_files(str(pattern))
    names = {"item_id": "video_id", **{name: name for name in _SIDE}}
    videos = table.select(_column(table, published, pattern).alias(name) for name, published in names.items())
    tags = pl.col("tag").cast(pl.String).str.split(",")  # "39,12", or empty
    return videos.with_columns(tag=tags.list.eval(pl.element().str.strip_chars().replace("", None)))


def _column(table: pl.DataFrame, name: str, pattern: Path) -> pl.Expr:
    if name not in table.columns:
        raise InputError(f"{pattern} lacks the published column {name!r}; {near_miss(name, table.columns)}")
    return pl.col(name)
