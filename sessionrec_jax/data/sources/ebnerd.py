"""EB-NeRD (demo, small, large) as published: impressions of a news site, and the clicks before them as context.

A row of behaviors.parquet is an impression: the articles in view are its exposures, the clicked ones among them the
labels. Times have no zone and are taken as UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl
from tyro.conf import Positional

from sessionrec_jax.data.sources import RawLog
from sessionrec_jax.data.sources.files import IF_THERE, File, collected, label, locate, scan_typed, session_context

NAME = "ebnerd"
TITLE = "EB-NeRD: the news site Ekstra Bladet (demo, small, large), with published sessions"
LICENCE = "the publisher's terms, accepted on download"
SIZE = "over a million users, 37 M impressions and 125,000 articles in all; small and demo are samples"
WHERE = "https://recsys.eb.dk (ebnerd_demo.zip, ebnerd_small.zip, ebnerd_large.zip)"
CITATION = "Kruse et al., EB-NeRD, RecSys Challenge 2024, arXiv 2410.03432"
FILES = (
    File("train/behaviors.parquet", "a week of impressions"),
    File("validation/behaviors.parquet", "the week after", IF_THERE),
    File("train/history.parquet", "the users' clicks of the three weeks before", "--history"),
    File("validation/history.parquet", "the same before the validation week", IF_THERE),
    File("articles.parquet", "categories, topics and types of articles", IF_THERE),
)

AFTER_FIRST = "history after the user's first impression"
NO_IMPRESSION = "history of a user without impressions"

_BEHAVIOR = {
    "impression_id": pl.Int64,
    "session_id": pl.Int64,
    "user_id": pl.Int64,
    "impression_time": pl.Datetime("us"),
    "article_ids_inview": pl.List(pl.Int64),
    "article_ids_clicked": pl.List(pl.Int64),
}
_CONTEXT = {"device_type": pl.Int64, "is_sso_user": pl.Boolean, "is_subscriber": pl.Boolean}
_HISTORY = {
    "user_id": pl.Int64,
    "article_id_fixed": pl.List(pl.Int64),
    "impression_time_fixed": pl.List(pl.Datetime("us")),
}
_ARTICLE = {
    "article_id": pl.Int64,
    "category": pl.Int64,
    "subcategory": pl.List(pl.Int64),
    "topics": pl.List(pl.String),
    "article_type": pl.String,
    "premium": pl.Boolean,
    "sentiment_label": pl.String,
}
_SPLITS = ("train", "validation")
_KINDS_OF_SESSION = 3  # a session is from the train split, the validation split or the history
_PAUSE = pl.duration(minutes=30)


@dataclass(frozen=True)
class Options:
    path: Positional[Path]
    """The unpacked folder, with train/ in it, and validation/ and articles.parquet if you have them."""
    session: Literal["impression", "visit"] = "impression"
    """A session is one impression (a list that the site put together), or a whole visit (session_id)."""
    session_context: tuple[Literal["device_type", "is_sso_user", "is_subscriber"], ...] = ()
    """Columns of an impression that are context of its session; --history has none."""
    history: bool = False
    """Read the clicks before a user's first impression as context of the kind history, in sessions cut at pauses."""


def read(options: Options) -> RawLog:
    """Reads the exposures of both splits. Each split numbers impressions and visits from 1, so ids include the split.

    A clicked article that is not in view counts as in view, last in the list. The validation history overlaps the train
    week, so only the part of a history before the user's first impression is taken.
    """
    paths = locate(options.path, FILES, ("--history",) if options.history else ())
    behaviors = [paths[f"{split}/behaviors.parquet"] for split in _SPLITS]
    key = "impression_id" if options.session == "impression" else "session_id"
    logs = [_impressions(found, key, kind, options.session_context) for kind, found in enumerate(behaviors) if found]
    if options.history:
        first = scan_typed([path for found in behaviors for path in found], _BEHAVIOR)
        first = first.group_by("user_id").agg(first_ms=pl.col("impression_time").min().dt.epoch("ms"))
        logs.append(_clicks_before(first, [path for split in _SPLITS for path in paths[f"{split}/history.parquet"]]))
    articles = paths["articles.parquet"]
    notes = [
        *([] if options.history else ["not read: history.parquet (--history takes it in as context)"]),
        *([] if articles else ["articles.parquet is not there: no side information"]),
    ]
    return RawLog(
        source=NAME,
        exposures=pl.concat(logs, how="diagonal"),
        items=_articles(articles) if articles else None,
        times="impression_time in behaviors.parquet",
        session_rule="session_id",
        note="; ".join(notes),
    )


def _articles(paths: list[Path]) -> pl.DataFrame:
    return collected(scan_typed(paths, _ARTICLE).rename({"article_id": "item_id"}), NAME)


def _impressions(paths: list[Path], key: str, kind: int, context: tuple[str, ...]) -> pl.LazyFrame:
    inview, clicked = pl.col("article_ids_inview"), pl.col("article_ids_clicked")
    return (
        scan_typed(paths, _BEHAVIOR | {name: _CONTEXT[name] for name in context})
        .with_columns(item_id=inview.list.concat(clicked.fill_null([]).list.set_difference(inview)))
        .explode("item_id")
        .with_columns(was_clicked=pl.col("item_id").is_in(clicked))
        .select(
            "user_id",
            "item_id",
            *session_context(dict.fromkeys(context)),
            timestamp_ms=pl.col("impression_time").dt.epoch("ms"),
            clicked=label("was_clicked"),
            session_id=pl.col(key) * _KINDS_OF_SESSION + kind,
        )
    )


def _clicks_before(first: pl.LazyFrame, paths: list[Path]) -> pl.LazyFrame:
    time = pl.col("impression_time_fixed")
    pause = (time.diff().over("user_id") > _PAUSE).fill_null(False)
    clicks = (
        scan_typed(paths, _HISTORY)
        .explode("article_id_fixed", "impression_time_fixed")
        .sort("user_id", "impression_time_fixed", maintain_order=True)
        .with_columns(session=pause.cum_sum().over("user_id"), timestamp_ms=time.dt.epoch("ms"))
    )
    late = pl.when(pl.col("first_ms").is_null()).then(pl.lit(NO_IMPRESSION))
    late = late.when(pl.col("timestamp_ms") >= pl.col("first_ms")).then(pl.lit(AFTER_FIRST))
    return clicks.join(first, on="user_id", how="left", maintain_order="left").select(
        "user_id",
        "timestamp_ms",
        item_id="article_id_fixed",
        clicked=pl.lit(None, pl.String),
        session_id=pl.col("session").cast(pl.Int64) * _KINDS_OF_SESSION + _KINDS_OF_SESSION - 1,
        feedback=pl.lit("history"),
        left_out=late,
    )
