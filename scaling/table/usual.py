"""Columns that are recognised by their usual names, and the runs table that Weights & Biases exports."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import polars as pl

from scaling.table.columns import Columns, flag

USUAL: dict[str, tuple[str, ...]] = {
    "loss": (
        "loss", "valloss", "validloss", "validationloss", "evalloss", "testloss", "heldoutloss", "finalloss", "lmloss",
    ),
    "n": (
        "n", "params", "parameters", "nparams", "numparams", "paramcount", "modelsize", "nonembeddingparams",
        "paramsnonembedding", "nonembeddingparamsize",
    ),
    "d": ("d", "tokens", "ntokens", "numtokens", "trainingtokens", "traintokens", "tokensseen", "datasize", "samples"),
    "flops": ("flops", "c", "compute", "trainflops", "trainingflops", "trainingflop", "computebudget"),
}  # fmt: skip
"""{field of Columns: its usual names, in small letters and digits alone; the first that a table has is taken}."""
PREFIX = re.compile(r"^(summary|config|final)[./_ ]", re.I)
"""A W&B export may have the group of a value before its name."""
WANDB = ("Name", "State", "Created")
"""Columns that every runs table has that W&B exports."""
WANDB_DONE = "finished"


def recognised(columns: Columns, present: Sequence[str]) -> tuple[Columns, tuple[str, ...]]:
    """Returns `columns` with the usual names for what is not named, and a note that says which were taken.

    A loss is looked for where neither loss nor metric is named. Size, data and FLOPs are looked for where none of them
    is named, unless both a metric and a loss are, which need no more.
    """
    wanted = [] if columns.loss or columns.metric else ["loss"]
    if not (columns.loss and columns.metric) and not any(
        (columns.n, columns.d, columns.flops, columns.n_from_flops, columns.unique)
    ):
        wanted += ["n", "d", "flops"]
    found: dict[str, str] = {}
    for field in wanted:
        plain = {_plain(name): name for name in reversed(present)}
        name = next((plain[usual] for usual in USUAL[field] if usual in plain), None)
        if name is not None:
            found[field] = name
    if "flops" in found and ("n" not in found or "d" in found):
        del found["flops"]  # N and D say it already, or C alone says nothing
    if not found:
        return columns, ()
    taken = ", ".join(f"{flag(field)} {name}" for field, name in found.items())
    return dataclasses.replace(columns, **found), (f"Columns recognised by their names: {taken}.",)


def _plain(name: str) -> str:
    return re.sub("[^a-z0-9]", "", PREFIX.sub("", name).lower())


def from_wandb(frame: pl.DataFrame) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Returns the runs table of W&B with `status` and `run_id`, and a note; another table as it is."""
    if not set(WANDB) <= set(frame.columns) or "status" in frame.columns:
        return frame, ()
    state = pl.col("State").cast(pl.String)
    status = pl.when(state == WANDB_DONE).then(pl.lit("done")).otherwise(state).alias("status")
    run_id = [] if "run_id" in frame.columns else [pl.col("Name").cast(pl.String).alias("run_id")]
    note = f"This is a runs table of Weights & Biases: runs whose State is not {WANDB_DONE} are left out."
    return frame.with_columns(status, *run_id), (note,)
