"""MIND (small, large) as published: impressions of a news feed, and the clicks before them as context.

A line of behaviors.tsv is an impression, and an impression is a session. Times have no zone and are taken as UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl
from tyro.conf import Positional

from sessionrec_jax.data.sources import RawLog
from sessionrec_jax.data.sources.files import IF_THERE, File, collected, label, locate, scan_headless
from sessionrec_jax.errors import InputError

NAME = "mind"
TITLE = "MIND: the feed of Microsoft News (small, large)"
LICENCE = "Microsoft Research licence terms: research only, no commercial use"
SIZE = "a million users, 161,000 articles, 15 M impressions; small: 50,000 of the users"
WHERE = "https://msnews.github.io (MINDsmall_train.zip and _dev.zip, or MINDlarge; each into a folder of its name)"
CITATION = "Wu et al., MIND, ACL 2020"
FILES = (
    File("*train/behaviors.tsv", "impressions, with the clicks before them"),
    File("*train/news.tsv", "categories of articles"),
    File("*dev/behaviors.tsv", "impressions of the day after", IF_THERE),
    File("*dev/news.tsv", "categories of their articles", IF_THERE),
)

_BEHAVIOR = ("impression_id", "user_id", "time", "history", "impressions")
_NEWS = ("item_id", "category", "subcategory", "title", "abstract", "url", "title_entities", "abstract_entities")
_KINDS_OF_SESSION = 3  # a session is from the train split, the dev split or the history
_BEFORE_MS = 1000


@dataclass(frozen=True)
class Options:
    path: Positional[Path]
    """The folder that holds MINDsmall_train/ or MINDlarge_train/ (or just train/), and the dev folder if you have it.
    The test set has no clicks and is not read."""
    history: bool = False
    """Read the clicks before a user's first impression as context of the kind history, in one session before it."""


def read(options: Options) -> RawLog:
    """Reads the exposures of both splits: N123-1 is a click and N124-0 is not. Each split counts impression_id from 1.

    The history has no times, and all lines of a user repeat it. The one of the first impression is taken, and placed
    one second before it.
    """
    paths = locate(options.path, FILES)
    _one_version([path.parent.name for found in paths.values() for path in found])
    splits = [scan_headless(paths[f"*{split}/behaviors.tsv"], _BEHAVIOR) for split in ("train", "dev")]
    behaviors = pl.concat([split.with_columns(kind=pl.lit(kind)) for kind, split in enumerate(splits)]).with_columns(
        timestamp_ms=pl.col("time").str.to_datetime("%m/%d/%Y %I:%M:%S %p", strict=False).dt.epoch("ms")
    )
    exposures = _impressions(behaviors)
    if options.history:
        exposures = pl.concat([exposures, _clicks_before(behaviors)], how="diagonal")
    news = scan_headless([*paths["*train/news.tsv"], *paths["*dev/news.tsv"]], _NEWS)
    news = news.select("item_id", "category", "subcategory")
    return RawLog(
        source=NAME,
        exposures=exposures,
        items=collected(news.unique("item_id", keep="first", maintain_order=True), NAME),
        times="the third column of behaviors.tsv",
        session_rule="session_id",
        note="" if options.history else "not read: the history in behaviors.tsv (--history takes it in as context)",
    )


def _one_version(folders: list[str]) -> None:
    versions = {name.removesuffix("train").removesuffix("dev") for name in folders}
    if len(versions) > 1:
        raise InputError(
            f"the folders {' and '.join(sorted(set(folders)))} are of two versions, of which one is a sample of the "
            "other; keep one version in a folder"
        )


def _impressions(behaviors: pl.LazyFrame) -> pl.LazyFrame:
    return (
        behaviors.with_columns(shown=pl.col("impressions").str.split(" "))
        .explode("shown")
        .select(
            "user_id",
            "timestamp_ms",
            item_id=pl.col("shown").str.replace(r"-[^-]*$", ""),
            clicked=label(pl.col("shown").str.extract(r"-([^-]*)$")),
            session_id=pl.col("impression_id").cast(pl.Int64, strict=False) * _KINDS_OF_SESSION + pl.col("kind"),
        )
    )


def _clicks_before(behaviors: pl.LazyFrame) -> pl.LazyFrame:
    return (
        behaviors.group_by("user_id")
        .agg(pl.col("history").sort_by("timestamp_ms", nulls_last=True).first(), first_ms=pl.col("timestamp_ms").min())
        .filter(pl.col("history").str.strip_chars() != "")
        .sort("user_id")
        .with_columns(item_id=pl.col("history").str.split(" "))
        .explode("item_id")
        .select(
            "user_id",
            "item_id",
            timestamp_ms=pl.col("first_ms") - _BEFORE_MS,
            clicked=pl.lit(None, pl.String),
            session_id=pl.lit(_KINDS_OF_SESSION - 1, pl.Int64),
            feedback=pl.lit("history"),
        )
    )
