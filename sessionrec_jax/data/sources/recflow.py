"""RecFlow as published, one feather file a day: the videos shown and, on request, the candidates of each stage.

A session is a request. effective_view (30 % of the video watched) is the click; a video shown without it is ignored. A
candidate that was not shown is context, of the kind of the last stage it reached: nobody saw it, so it is neither a
label nor a negative of the ranking.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl
from tyro.conf import Positional

from sessionrec_jax.data.sources import RawLog
from sessionrec_jax.data.sources.files import IF_THERE, File, collected, label, locate, scan_typed, session_context
from sessionrec_jax.errors import InputError

NAME = "recflow"
TITLE = "RecFlow: requests to a short-video feed over 37 days, with the candidates of every stage"
LICENCE = "CC BY-SA 4.0"
SIZE = "42,000 users, 38 M exposures in 9.3 M requests; 1.9 billion candidates of the stages"
WHERE = "https://github.com/RecFlow-ICLR/RecFlow (the link to the drive is in its README)"
CITATION = "Liu et al., RecFlow, ICLR 2025, arXiv 2410.20868"
FILES = (
    File("realshow/*.feather", "what was shown, one file a day: 2024-01-13.feather to 2024-02-18.feather"),
    File("all_stage/*.feather", "the candidates of every stage, one file a day", "--stages"),
    File("*/*.pkl", "dictionaries made from the files above; not needed and never loaded", IF_THERE),
)

Stage = Literal["rerank_pos", "rerank_neg", "rank_pos", "rank_neg", "coarse_neg", "prerank_neg"]
_LAST_STAGE_FIRST: tuple[Stage, ...] = (
    "rerank_pos", "rerank_neg", "rank_pos", "rank_neg", "coarse_neg", "prerank_neg",
)  # fmt: skip
NO_STAGE = "candidate of no stage"
NOT_SHOWN = "realshow is 0"

_SIDE = ("author_id", "category_level_one", "category_level_two", "upload_type")
_SHOWN = {
    "request_id": pl.Int64,
    "request_timestamp": pl.Int64,
    "user_id": pl.Int64,
    "video_id": pl.Int64,
    "realshow": pl.Int64,
    "effective_view": pl.String,
    **dict.fromkeys(_SIDE, pl.Int64),
}
_CANDIDATE = {**_SHOWN, **dict.fromkeys(_LAST_STAGE_FIRST, pl.Int64)}
_NO_SECONDS = 100_000_000_000  # the unit is not published; this is the year 5138 in seconds, 1973 in milliseconds


@dataclass(frozen=True)
class Options:
    path: Positional[Path]
    """The unpacked folder, with realshow/ in it. Any of the days may be missing."""
    session_context: tuple[Literal["province", "age", "gender"], ...] = ()
    """Columns of a request that are context of its session."""
    stages: tuple[Stage, ...] = ()
    """Read unexposed candidates whose last stage is one of these as context. All stages are about 200 a request."""


def read(options: Options) -> RawLog:
    """Reads exposures with request_id as the session, and the item table from a video's first features in them."""
    paths = locate(options.path, FILES, ("--stages",) if options.stages else ())
    shown, all_stage = paths["realshow/*.feather"], paths["all_stage/*.feather"]
    if options.stages:
        _same_days(shown, all_stage)
    context = dict.fromkeys(options.session_context, pl.Int64)
    rows = scan_typed(shown, _SHOWN | context)
    exposures = rows.select(
        *_key(context),
        clicked=label("effective_view"),
        left_out=pl.when(pl.col("realshow") == 0).then(pl.lit(NOT_SHOWN)),
    )
    if options.stages:
        candidates = scan_typed(all_stage, _CANDIDATE | context).filter(pl.col("realshow").fill_null(0) != 1)
        reached = pl.coalesce(pl.when(pl.col(stage) == 1).then(pl.lit(stage)) for stage in _LAST_STAGE_FIRST)
        unseen = candidates.with_columns(feedback=reached).filter(
            pl.col("feedback").is_in(options.stages) | pl.col("feedback").is_null()
        )
        no_stage = pl.when(pl.col("feedback").is_null()).then(pl.lit(NO_STAGE))
        exposures = pl.concat(
            [exposures, unseen.select(*_key(context), "feedback", clicked=pl.lit(None, pl.String), left_out=no_stage)],
            how="diagonal",
        )
        rows = pl.concat([rows, unseen.filter(pl.col("feedback").is_not_null()).select(rows.collect_schema().names())])
    items = rows.select("video_id", *_SIDE).rename({"video_id": "item_id"}).drop_nulls("item_id")
    note = "not read: all_stage/ (--stages takes candidates in as context)" if all_stage else ""
    if options.stages:
        note = f"unexposed candidates as context: {', '.join(options.stages)}"
    return RawLog(
        source=NAME,
        exposures=exposures,
        items=collected(items.unique("item_id", keep="first", maintain_order=True), NAME),
        times="request_timestamp in the feather files",
        session_rule="session_id",
        note=note,
    )


def _key(context: Iterable[str]) -> list[pl.Expr]:
    time = pl.col("request_timestamp")
    return [
        pl.col("user_id"),
        pl.col("video_id").alias("item_id"),
        pl.when(time.abs() < _NO_SECONDS).then(time * 1000).otherwise(time).alias("timestamp_ms"),
        pl.col("request_id").alias("session_id"),
        *session_context(context),
    ]


def _same_days(shown: list[Path], all_stage: list[Path]) -> None:
    # Candidates of a day without its exposures would be requests in which nothing was shown.
    only = sorted({path.name for path in shown} ^ {path.name for path in all_stage})
    if only:
        few = ", ".join(only[:3]) + (", ..." if len(only) > 3 else "")
        raise InputError(f"only one of realshow/ and all_stage/ holds {few}; wanted both files of each day")
