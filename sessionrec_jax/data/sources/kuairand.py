"""KuaiRand (Pure, 1K, 27K) as published: standard feed logs, the random one if asked for, features of videos."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl
from tyro.conf import Positional

from sessionrec_jax.data.sources import RawLog
from sessionrec_jax.data.sources.files import File, collected, label, locate, scan_csv, session_context
from sessionrec_jax.errors import InputError

NAME = "kuairand"
TITLE = "KuaiRand-Pure, -1K and -27K: a short-video feed"
LICENCE = "CC BY-SA 4.0"
SIZE = "Pure 194 MB (1.4 M exposures), 1K 4.3 GB (11.7 M), 27K 46 GB (322 M); of them read: logs and basic features"
WHERE = "https://zenodo.org/records/10439422 (KuaiRand-Pure.tar.gz, KuaiRand-1K.tar.gz, KuaiRand-27K.tar.gz)"
CITATION = "Gao et al., KuaiRand, CIKM 2022, arXiv 2208.08696"
FILES = (
    File("log_standard_*.csv", "what the feed showed: two periods, and in 27K two parts of each"),
    File("video_features_basic_*.csv", "authors, types and tags of videos"),
    File("log_random_*.csv", "videos inserted at random", "--random-log"),
)

_EXPOSURE = {"user_id": pl.Int64, "video_id": pl.Int64, "time_ms": pl.Int64, "is_click": pl.String}
_VIDEO = {
    "video_id": pl.Int64,
    "author_id": pl.Int64,
    "video_type": pl.String,
    "upload_type": pl.String,
    "music_type": pl.Float64,
    "tag": pl.String,
}


@dataclass(frozen=True)
class Options:
    path: Positional[Path]
    """The unpacked folder, or its data/ folder. Any of the standard logs may be missing."""
    session_context: tuple[Literal["tab", "hourmin"], ...] = ()
    """Columns that are context of a session: the tab of the app, the local time by the hour."""
    random_log: bool = False
    """Read the log of randomly inserted videos as well; a feed would not show them by itself."""


def read(options: Options) -> RawLog:
    """Reads all log files as exposures with `is_click` as the click, and the video features as the item table.

    A video without features is no item, so its exposures are rejected. Raises InputError on missing files or columns,
    and on files of two versions, because their ids differ.
    """
    folder = options.path / "data" if (options.path / "data").is_dir() else options.path
    paths = locate(folder, FILES, ("--random-log",) if options.random_log else ())
    random = paths["log_random_*.csv"]
    logs = [*paths["log_standard_*.csv"], *(random if options.random_log else [])]
    _one_version([*logs, *paths["video_features_basic_*.csv"]])
    left_out = ", ".join(path.name for path in random) if not options.random_log else ""
    context = dict.fromkeys(options.session_context, pl.Int64)
    return RawLog(
        source=NAME,
        exposures=scan_csv(logs, _EXPOSURE | context).select(
            "user_id",
            *session_context(context),
            item_id="video_id",
            timestamp_ms="time_ms",
            clicked=label("is_click"),
        ),
        items=_videos(paths["video_features_basic_*.csv"]),
        times="time_ms in log_*.csv",
        session_rule="gap_minutes=30",
        note=f"left out: {left_out} (--random-log takes it in)" if left_out else "",
    )


def _videos(paths: list[Path]) -> pl.DataFrame:
    tags = pl.col("tag").str.split(",")  # "39,12", or empty
    videos = scan_csv(paths, _VIDEO, quoted=True).rename({"video_id": "item_id"})
    return collected(videos.with_columns(tag=tags.list.eval(pl.element().str.strip_chars().replace("", None))), NAME)


def _one_version(paths: list[Path]) -> None:
    # Each version numbers users and videos by itself: 12 in Pure is not 12 in 1K.
    versions = {path.stem.removeprefix("log_").partition("_part")[0].rpartition("_")[2] for path in paths}
    if len(versions) > 1:
        raise InputError(
            f"{paths[0].parent} holds files of {' and '.join(sorted(versions))}, whose ids are not the same; keep one "
            "version in a folder"
        )
