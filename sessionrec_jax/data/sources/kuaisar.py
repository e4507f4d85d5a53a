"""KuaiSAR (full and small) as published: the recommendation log, and the search log as context.

The recommendation log has no session id. The service sends a batch of videos at one `timestamp`, so a user's videos of
one timestamp are one request, and that is the session.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl
from tyro.conf import Positional

from sessionrec_jax.data.sources import RawLog
from sessionrec_jax.data.sources.files import File, collected, label, locate, scan_csv

NAME = "kuaisar"
TITLE = "KuaiSAR and KuaiSAR-small: a short-video feed and the searches of the same users"
LICENCE = "CC BY-NC-SA 4.0"
SIZE = "25,877 users; 14.6 M exposures and 5.1 M search results (small: 7.5 M and 3.2 M)"
WHERE = "https://zenodo.org/record/8181109 (KuaiSAR_v2.zip is the full one, KuaiSAR.zip the small one)"
CITATION = "Sun et al., KuaiSAR, CIKM 2023, arXiv 2306.07705"
FILES = (
    File("rec_inter.csv", "the recommendation log"),
    File("item_features.csv", "authors, types and categories of videos"),
    File("src_inter.csv", "the search log", "--search-log"),
)

NO_VIDEO = "search result that is no video"

_EXPOSURE = {"user_id": pl.Int64, "item_id": pl.Int64, "timestamp": pl.Float64, "click": pl.String}
_RESULT = {
    "user_id": pl.Int64,
    "item_id": pl.Int64,
    "search_session_timestamp": pl.Float64,
    "click_cnt": pl.Float64,
    "item_type": pl.String,
}
_CATEGORIES = tuple(f"{level}_level_category_id" for level in ("first", "second", "third", "fourth"))
_ITEM = {
    "item_id": pl.Int64,
    "author_id": pl.Int64,
    "item_type": pl.String,
    "upload_type": pl.String,
    **dict.fromkeys(_CATEGORIES, pl.Int64),
}
_RECOMMENDABLE = ("VIDEO", "IMAGE_ATLAS")


@dataclass(frozen=True)
class Options:
    path: Positional[Path]
    """The unpacked folder, with rec_inter.csv in it."""
    search_log: bool = False
    """Read search results as context of the kinds search_clicked and search_ignored; they are never predicted."""


def read(options: Options) -> RawLog:
    """Reads exposures with `click` as the label, and the item table, in which author or category 0 means missing.

    With `search_log` search results are context. Results that are no videos (users, live streams, goods, music,
    advertisements) have other ids, which are no items: they are left out, with the reason.
    """
    flags = ("--search-log",) if options.search_log else ()
    paths = locate(options.path, FILES, flags)
    exposures = scan_csv(paths["rec_inter.csv"], _EXPOSURE).select(
        "user_id", "item_id", timestamp_ms="timestamp", clicked=label("click")
    )
    if options.search_log:
        exposures = pl.concat([exposures, _search_results(paths["src_inter.csv"])], how="diagonal")
    left_out = bool(paths["src_inter.csv"]) and not options.search_log
    return RawLog(
        source=NAME,
        exposures=exposures,
        items=_items(paths["item_features.csv"]),
        times="timestamp in rec_inter.csv" + (" or search_session_timestamp in src_inter.csv" if flags else ""),
        session_rule="same_timestamp",
        note="not read: src_inter.csv (--search-log takes it in as context)" if left_out else "",
    )


def _search_results(paths: list[Path]) -> pl.LazyFrame:
    was_clicked = pl.when(pl.col("click_cnt") > 0).then(pl.lit("search_clicked")).otherwise(pl.lit("search_ignored"))
    known = pl.col("click_cnt").is_not_null()
    return scan_csv(paths, _RESULT, quoted=True).select(
        "user_id",
        "item_id",
        timestamp_ms="search_session_timestamp",
        clicked=pl.when(~known).then(label("click_cnt")),  # without a count the row is a breach, else context
        feedback=was_clicked,
        left_out=pl.when(~pl.col("item_type").is_in(_RECOMMENDABLE)).then(pl.lit(NO_VIDEO)),
    )


def _items(paths: list[Path]) -> pl.DataFrame:
    items = collected(scan_csv(paths, _ITEM, quoted=True), NAME)
    padded = ["author_id", *_CATEGORIES]
    return items.with_columns(pl.when(pl.col(name) != 0).then(name) for name in padded)
