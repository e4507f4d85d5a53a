"""The card of a prepared log: card.json has the manifest and distributions, card.html shows them."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import polars as pl
import vl_convert

from doors.text import html
from sessionrec_jax.config.settings import Config
from sessionrec_jax.data import content_vectors
from sessionrec_jax.data.codes import TRAIN
from sessionrec_jax.data.packing import plan_rows
from sessionrec_jax.data.session_log import PROBABILITY
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.data.windows import items_per_row, make_windows

NAME = "card"
_SAMPLE_USERS = 20_000
_STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:15px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem;overflow-wrap:anywhere}"
    "td{padding:.1rem 1.5rem .1rem 0;vertical-align:top}td:first-child{overflow-wrap:normal}"
    "svg{max-width:100%;height:auto;background:#fff;border-radius:6px}"
    "@media(max-width:600px){td{display:block;padding:0}}"
)


def card(prepared: Prepared, distributions: dict[str, Any]) -> dict[str, Any]:
    """Returns the manifest, the distributions (statistics.py), and the share of padding at the default shapes."""
    return {**prepared.manifest, "distributions": distributions, "padding": _padding(prepared)}


def _padding(prepared: Prepared) -> dict[str, float] | None:
    """Returns the share of slots that are padding in training batches at the default settings.

    It is computed from a sample of users; None if none of them has two sessions.
    """
    config, log = Config(), prepared.sample(_SAMPLE_USERS)
    slots = config.data.sessions_per_row
    items = items_per_row(config, log, prepared.manifest["items_per_session_mean"])
    windows = make_windows(log, np.arange(log.users), TRAIN, sessions=slots, items=items)
    if not len(windows):
        return None
    rows = len(plan_rows(windows, slots, items))
    return {
        "item_slots": 1 - float(windows.items_W.sum()) / (rows * items),
        "session_slots": 1 - float(windows.sessions_W.sum()) / (rows * slots),
    }


def lines(card: dict[str, Any]) -> dict[str, str]:
    """Returns the card in words, by topic."""
    first, last = (
        datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC).strftime("%F %R") for ms in card["time_range_ms"]
    )
    settings, padding = card["settings"], card["padding"]
    quantiles = ", ".join(f"{float(q):.0%} {n}" for q, n in card["sessions_per_user_quantiles"].items())
    side = ", ".join(map(_column, card["side_columns"]))
    vectors = ", ".join(map(content_vectors.sentence, card.get("vectors", [])))
    context = ", ".join(map(_context, card["session_context"]))
    rejected = ", ".join(f"{reason} {count:,}" for reason, count in card["rejected"].items())
    return {
        "source": f"{card['source']}, {first} to {last} UTC",
        "fingerprint": card["fingerprint"],
        "users": f"{card['users']:,}, of them {card['users_without_target']:,} without a session to predict",
        "items": f"{card['items']:,}, of them {card['items_exposed']:,} exposed{_tail(card)}",
        "sessions": f"{card['sessions']:,} by {settings['session_rule']}; {card['sessions_per_user_mean']:.2f} a user "
        f"(quantiles: {quantiles})",
        "exposures": f"{card['exposures']:,}, of them {card['context_exposures']:,} context; "
        f"{card['items_per_session_mean']:.2f} a session, at most {card['max_session_items']}",
        "clicks": f"{card['clicks']:,}, {card['click_rate']:.1%} of the labelled exposures"
        + (", each with a click probability" if PROBABILITY in card else ""),
        "feedback": ", ".join(card["feedback_names"]),
        "split": settings["split"] + _leak(card) + _overlaps(card) + _new_items(card),
        "sessions by role": _by_role(card["sessions_by_role"]),
        "to predict": f"{_by_role(card['target_sessions_by_role'])} (sessions with one before them)",
        "side information": side or "-",
        **({"content vectors": vectors} if vectors else {}),
        "session context": context or "-",
        "padding": "-"
        if padding is None
        else f"{padding['item_slots']:.1%} of the item slots and {padding['session_slots']:.1%} of the session slots "
        "of training batches at the default shapes",
        "rejected": f"{rejected}{_lost(card)} of {card['rows']:,} rows, in rejected.parquet" if rejected else "no row",
        "note": card["note"] or "-",
    }


def _leak(card: dict[str, Any]) -> str:
    share = card.get("training_after_first_test")
    if not share:
        return ""
    cure = "" if card["settings"]["split"] == "temporal" else "; --split temporal trains on the past alone"
    return f"; {share:.1%} of the training exposures are later than the first test session{cure}"


def _overlaps(card: dict[str, Any]) -> str:
    count = card.get("overlapping_sessions")
    if not count:
        return ""
    share = count / max(1, sum(card["target_sessions_by_role"].values()))
    return (
        f"; {share:.1%} of the sessions to predict begin before an earlier session of their user has ended, so their "
        "history shows things that happened later"
    )


def _new_items(card: dict[str, Any]) -> str:
    share = card.get("test_clicks_on_new_items")
    if not share:
        return ""
    known = card["side_columns"] or card.get("vectors")
    cure = "" if known else ", which a model without side information cannot tell apart"
    return f"; {share:.1%} of the test clicks are on items that no training session shows{cure}"


def _lost(card: dict[str, Any]) -> str:
    lost = card.get("lost_clicks")
    return f" ({lost:,} clicks are lost with what is past the longest length)" if lost else ""


def _tail(card: dict[str, Any]) -> str:
    if not card["items_in_tail"]:
        return ""
    least, items = card["settings"]["min_item_exposures"], card["items_in_tail"]
    rows = min(card["settings"]["tail_buckets"], items)
    return f"; {items:,} with fewer than {least:,} training exposures share {rows:,} rows of the ID table"


def _column(summary: dict[str, Any]) -> str:
    counted = "buckets" if summary["kind"] == "buckets" else "values"
    lists = f", lists of up to {summary['width']}" if summary["width"] > 1 else ""
    unknown = f", {summary['out_of_vocabulary']:,} items out of vocabulary" if summary["out_of_vocabulary"] else ""
    return f"{summary['name']} ({summary['values']:,} {counted}{lists}{unknown})"


def _context(summary: dict[str, Any]) -> str:
    words = {"missing": "without one", "out_of_vocabulary": "out of vocabulary", "differing": "with several"}
    counts = (f", {summary[name]:,} sessions {text}" for name, text in words.items() if summary[name])
    return f"{summary['name']} ({summary['values']:,} values{''.join(counts)})"


def _by_role(counts: dict[str, int]) -> str:
    return ", ".join(f"{role} {count:,}" for role, count in counts.items())


def write(card: dict[str, Any], folder: Path) -> None:
    """Writes card.json and card.html, which needs no network and no script."""
    (folder / f"{NAME}.json").write_text(json.dumps(card, indent=1, allow_nan=False))
    (folder / f"{NAME}.html").write_text(_page(card))


def _page(card: dict[str, Any]) -> str:
    escaped = ((html(name), html(text)) for name, text in lines(card).items())
    rows = "".join(f"<tr><td><b>{name}</b></td><td>{text}</td></tr>" for name, text in escaped)
    title = html(f"{card['source']} {card['fingerprint']}")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style>'
        f"</head><body>\n<h1>{title}</h1>\n<table>{rows}</table>\n"
        f"{drawn(card['distributions'])}\n</body></html>\n"
    )


def drawn(distributions: dict[str, Any]) -> str:
    """Returns the charts of the distributions as one SVG image."""
    return vl_convert.vegalite_to_svg(_charts(distributions).to_dict())


def _charts(distributions: dict[str, Any]) -> alt.VConcatChart:
    by_sessions, by_items, popularity = (
        pl.DataFrame(distributions[name]) for name in ("sessions_per_user", "items_per_session", "popularity")
    )
    popularity = popularity.unpivot(index="rank", variable_name="of", value_name="times")
    title = "Training clicks and exposures of the item at each rank"
    return alt.vconcat(
        _chart(by_sessions, "sessions", "users", "Sessions a user").mark_point(filled=True, size=18),
        _chart(by_items, "items", "sessions", "Exposures a session").mark_point(filled=True, size=18),
        _chart(popularity, "rank", "times", title).mark_line().encode(color=alt.Color("of", title=None)),
    )


def _chart(table: pl.DataFrame, x: str, y: str, title: str) -> alt.Chart:
    """Draws a chart on logarithmic axes, which cannot show zeros."""
    log = alt.Scale(type="log")
    chart = alt.Chart(table.filter((pl.col(x) > 0) & (pl.col(y) > 0)), title=title)
    return chart.encode(x=alt.X(x, scale=log), y=alt.Y(y, scale=log)).properties(width=560, height=240)
