"""Published logs that the source `table` reads: what to download, a few lines of Polars, and the command.

These logs have no file of their own in this folder. `sessionrec sources` prints the lines, and tests/test_by_table.py
runs them on small files in the layout of the publisher. SRC is the folder of the download; `log.parquet` and DATA are
written where the lines are run.
"""

from __future__ import annotations

from typing import NamedTuple


class ByTable(NamedTuple):
    """A published log, and how to read it."""

    what: str
    licence: str
    size: str
    where: str
    citation: str
    layout: str
    """The document that describes the files and their columns."""
    choice: str
    """The meaning of a session and a click here, and what the publisher leaves open."""
    python: str
    """Lines that write log.parquet from the files in SRC."""
    command: str


BY_TABLE = {
    "yambda": ByTable(
        what="Yambda-50M, -500M and -5B: listening to music, with the share of each track that was played",
        licence="Apache 2.0, for scientific and research purposes",
        size="46 M, 467 M and 4.65 G listens of 10,000 to 1 M users",
        where="https://huggingface.co/datasets/yandex/yambda: flat/50m/listens.parquet",
        citation="Ploshkin et al., Yambda-5B, arXiv 2505.22238",
        layout="the card of the data set, section Data Format",
        choice="A listen is a click if half of the track was played, as in the publisher's benchmark. Times are "
        "seconds since a start that is not published: the lines put it in September 2020. A session "
        "ends after a pause of 30 minutes.",
        python="""\
import polars as pl
listens = pl.scan_parquet("SRC/flat/50m/listens.parquet")
listens.select(
    "uid", "item_id", "is_organic", seconds=1_600_000_000 + pl.col("timestamp").cast(pl.Int64),
    clicked=pl.col("played_ratio_pct") >= 50,
).sink_parquet("log.parquet")""",
        command="sessionrec prepare table --exposures log.parquet --user uid --item item_id --time seconds "
        "--time-unit s --clicked clicked --out DATA",
    ),
    "openonerec": ByTable(
        what="OpenOneRec (RecIF): histories of a short-video feed with long views, likes and follows",
        licence="Apache 2.0",
        size="about 100 M interactions of 200,000 users",
        where="https://huggingface.co/datasets/OpenOneRec/OpenOneRec-RecIF: onerec_bench_release.parquet",
        citation="OpenOneRec Technical Report, arXiv 2512.24762",
        layout="the card of the data set, section Field Descriptions",
        choice="A long view is a click, and a shorter one is ignored. Neither times nor sessions are published: the "
        "lines cut the history into sessions of ten videos, an arbitrary number, and the target list is the last "
        "session. Ads and goods, of which only clicked ones are published, are left out",
        python="""\
import polars as pl
users = pl.scan_parquet("SRC/onerec_bench_release.parquet")
def videos(part):
    columns = {"item": f"{part}_video_pid", "long_view": f"{part}_video_longview"}
    return users.select("uid", **columns).explode("item", "long_view").drop_nulls("item")
place = pl.int_range(pl.len()).over("uid")
history = videos("hist").with_columns(session=place // 10)
target = videos("target").with_columns(session=pl.lit(-1, pl.Int64))
pl.concat([history, target]).sink_parquet("log.parquet")""",
        command="sessionrec prepare table --exposures log.parquet --user uid --item item --session session --order row "
        "--clicked long_view --out DATA",
    ),
    "kuaisearch": ByTable(
        what="KuaiSearch: searches for goods, with shown, clicked and bought ones",
        licence="see the card of the data set",
        size="81.4 M shown items in 2.6 M searches of 331,930 users; a smaller part is called lite",
        where="https://huggingface.co/datasets/benchen4395/KuaiSearch: rank_lite/train.jsonl",
        citation="Li et al., KuaiSearch, arXiv 2602.11518",
        layout="demo/rank.jsonl of https://github.com/benchen4395/KuaiSearch, and the table on its page",
        choice="A session is the published one. The unit of `time_index` is not published, so that it gives the order "
        "alone. The text of the query is left out",
        python="""\
import polars as pl
shown = pl.scan_ndjson("SRC/rank_lite/train.jsonl")
columns = ["user_id", "session_id", "time_index", "search_entrance", "target_item_id", "is_clicked"]
shown.select(columns).sort("time_index", maintain_order=True).sink_parquet("log.parquet")""",
        command="sessionrec prepare table --exposures log.parquet --user user_id --item target_item_id "
        "--session session_id --order row --clicked is_clicked --session-context search_entrance --out DATA",
    ),
    "otto": ByTable(
        what="OTTO: clicks, carts and orders in a web shop",
        licence="CC BY 4.0",
        size="194.7 M clicks of 12.9 M users on 1.86 M articles, in five weeks",
        where="https://github.com/otto-de/recsys-dataset says where the files train.jsonl and test.jsonl are",
        citation="Normann, Baumeister and Wilm, OTTO Recommender Systems Dataset, 2022",
        layout="README of the repository, section Data Format",
        choice="What the publisher calls a session is all that one user did: it is the user here, and a session ends "
        "after a pause of 30 minutes. What was shown and not clicked is not published, so that there is no rank loss "
        "to train (--loss.alpha 0). Carts and orders are left out",
        python="""\
import polars as pl
events = pl.scan_ndjson("SRC/train.jsonl").explode("events").unnest("events")
events.filter(pl.col("type") == "clicks").sink_parquet("log.parquet")""",
        command="sessionrec prepare table --exposures log.parquet --user session --item aid --time ts --clicked all "
        "--out DATA",
    ),
    "trivago": ByTable(
        what="Trivago (RecSys Challenge 2019): hotels that a search showed, and the one that was clicked",
        licence="the terms of the challenge, which one accepts for the download",
        size="about 16 M actions of 730,000 users in train.csv",
        where="https://recsys.trivago.cloud/challenge/dataset",
        citation="Adamczak et al., Session-based Hotel Recommendations Dataset, ACM TIST 12(1), 2020",
        layout="https://github.com/recsyschallenge/2019: docs/problem_definition.md",
        choice="Only click-outs list what was shown: the hotel that was clicked is a click, and the others of its list "
        "were ignored. A hotel that was clicked and is not on the list is left out. A session is the published one",
        python="""\
import polars as pl
actions = pl.scan_csv("SRC/train.csv", infer_schema=False).filter(pl.col("action_type") == "clickout item")
actions.select(
    "user_id", "session_id", "device", "reference", seconds=pl.col("timestamp").cast(pl.Int64),
    item=pl.col("impressions").str.split("|"),
).explode("item").with_columns(clicked=pl.col("item") == pl.col("reference")).sink_parquet("log.parquet")""",
        command="sessionrec prepare table --exposures log.parquet --user user_id --item item --session session_id "
        "--time seconds --time-unit s --clicked clicked --session-context device --out DATA",
    ),
}
