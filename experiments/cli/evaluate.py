"""Evaluate a trained run against the whole catalogue, next to its baselines.

sessionrec evaluate RUN --json metrics.json
sessionrec evaluate RUN --split validation --seen masked --json - | jq .mrr
sessionrec evaluate RUN --by item_popularity history_length --json metrics.json --figure segments.svg
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.table import Table

import sessionrec_jax as sr
from doors.address import shown
from doors.files import STDOUT, check_outputs, write_json
from doors.terminal import Terminal
from experiments.cli import show_segments
from experiments.cli.devices import mesh_of
from experiments.cli.parsing import JsonFile, OutputFile, parse_flags
from sessionrec_jax.errors import InputError
from sessionrec_jax.evaluation.metrics import CUTOFFS

_SHOWN = (
    ("loss_nats_per_item", "nats an item"),
    ("rank_nats_per_exposure", "rank nats"),
    ("rank_auc", "rank AUC"),
    ("rank_gauc", "rank GAUC"),
    ("rank_ndcg", "rank NDCG"),
    ("retrieval_auc", "retrieval AUC"),
    *((f"recall_at_{k}", f"Recall@{k}") for k in CUTOFFS),
    *((f"ndcg_at_{k}", f"NDCG@{k}") for k in CUTOFFS),
    *((f"hit_at_{k}", f"Hit@{k}") for k in CUTOFFS),
    ("mrr", "MRR"),
)

_COMPARED = (
    ("loss_nats_per_item", "nats an item", 1),
    ("rank_nats_per_exposure", "rank nats", 1),
    ("ndcg_at_50", "NDCG@50", -1),
)
"""Metrics in which a model is compared with popularity; -1: higher is better."""

FEWEST_CLICKS = 30


@dataclass(frozen=True)
class Command:
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="RUN", metavar="RUN")]
    """The run folder of `sessionrec train` or of a sweep."""
    split: Literal["validation", "test"] = "test"
    """The held-out sessions to evaluate on."""
    seen: Literal["kept", "masked"] | None = None
    """Items that a user was shown before are candidates and targets of the ranking metrics (kept), or neither (masked).
    The default is the run's data.eval_seen."""
    by: tuple[str, ...] = ()
    """Also show the metrics by segment: item_popularity (training clicks of the clicked item), new_item (shown to the
    user before or not), history_length (sessions before), session_items (exposures), or a column of session context."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="DATA")] = None
    """The prepared log, if it has moved since training."""
    mesh: str | None = None
    """The devices, such as data=4,model=2; the axis model shards the item tables by rows. The default is as many as the
    run had, or as there are."""
    json: JsonFile = None
    """Also write the metrics, with their standard errors over users, to this file."""
    figure: OutputFile = None
    """Also draw NDCG@50 by segment, with 95 % intervals over users, into this SVG file. It needs --by."""


def main(argv: list[str]) -> int:
    command = parse_flags(Command, argv, prog="sessionrec evaluate", description=__doc__)
    check_outputs(command.json, command.figure)
    if command.figure is not None and not command.by:
        raise InputError(f"--figure {command.figure} draws segments; wanted --by, such as --by item_popularity")
    run = sr.load(command.run, command.data, None if command.mesh is None else mesh_of(command.mesh))
    metrics = run.evaluate(command.split, command.seen, command.by)
    if command.json is not None:
        write_json(command.json, metrics)
    if command.json != STDOUT:
        print_metrics(metrics, f"{shown(command.run)}, {command.split} sessions")
        for table in show_segments.tables(metrics.get("by", {})):
            Terminal().print(table)
    if command.figure is not None:
        show_segments.write_figure(metrics["by"], command.figure)
    return 0


def print_metrics(metrics: dict[str, Any], title: str) -> None:
    """Prints the model's metrics with their standard errors over users, next to the baselines on the same sessions.

    The baselines are popularity, popularity in the newest part of training, the last session repeated, session kNN,
    and the best possible predictor of a log whose truth is known. A dash marks a missing number.
    """
    columns = {
        "model": metrics.get,
        "± s.e.": lambda name: metrics.get(f"{name}_stderr"),
        "popularity": lambda name: _of_popularity(metrics, name),
        "recent": lambda name: metrics.get(f"recent_popularity_{name}"),
        "repeat last": lambda name: metrics.get(f"repeat_last_{name}"),
        "session kNN": lambda name: metrics.get(f"session_knn_{name}"),
        "best": lambda name: metrics.get(_with(name, "bayes")),
    }
    columns = {title: get for title, get in columns.items() if any(get(name) is not None for name, _ in _SHOWN)}
    masked = ", without items seen before" if metrics.get("seen_items") == "masked" else ""
    table = Table(title=title + masked, title_justify="left")
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    for name, label in _SHOWN:
        table.add_row(label, *("-" if (value := get(name)) is None else f"{value:.4f}" for get in columns.values()))
    Terminal().print(table)
    for line in (*_measured_on(metrics), *_no_better_than_popularity(metrics)):
        Terminal(soft_wrap=True).print(line)


def _measured_on(metrics: dict[str, Any]) -> Iterator[str]:
    """Says over how many sessions and clicks the metrics are means, and when these are too few."""
    clicks, ranked, ordered = (metrics.get(name) for name in ("scored_clicks", "ranked_sessions", "ordered_sessions"))
    if clicks is None or ranked is None or ordered is None:  # a row of an older version
        return
    yield (
        f"{clicks:,} clicks; recall, NDCG, hit and MRR over {ranked:,} sessions with a click, AUC over the {ordered:,} "
        f"with clicked and ignored exposures; split {metrics.get('split')}"
    )
    if max(clicks, ranked) < FEWEST_CLICKS:
        yield f"[yellow]warning:[/] with fewer than {FEWEST_CLICKS} clicks these numbers say next to nothing"


def _no_better_than_popularity(metrics: dict[str, Any]) -> Iterator[str]:
    """Warns of the losses, and of NDCG@50 where `evaluate` has it, in which popularity is as good as the model."""
    worse = [
        label
        for name, label, sign in _COMPARED
        if None not in (model := metrics.get(name), popularity := _of_popularity(metrics, name))
        and sign * model >= sign * popularity
    ]
    if worse:
        has_ranks = _of_popularity(metrics, "ndcg_at_50") is not None
        yield (
            f"[yellow]warning:[/] no better than popularity in {', '.join(worse)}: more data, fewer epochs or another "
            f"learning rate may help{'' if has_ranks else '; `sessionrec evaluate` compares the ranks too'}"
        )


def _of_popularity(metrics: dict[str, Any], name: str) -> float | None:
    return metrics.get(_with(name, "baseline") or f"popularity_{name}")


def _with(name: str, word: str) -> str | None:
    """Returns e.g. loss_baseline_nats_per_item for loss_nats_per_item, None for a ranking metric."""
    return name.replace("_nats", f"_{word}_nats") if "_nats" in name else None
