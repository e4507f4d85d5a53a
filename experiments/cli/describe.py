"""Say what a prepared folder holds."""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from sessionrec_jax.data.store import Prepared, open_log


@dataclass(frozen=True)
class Command:
    data: tyro.conf.Positional[Path]
    """A folder that `sessionrec prepare` wrote."""
    json: bool = False
    """Print the manifest as JSON."""


def main(argv: list[str]) -> None:
    command = tyro.cli(Command, args=argv, prog="sessionrec describe", description=__doc__)
    prepared = open_log(command.data)
    if command.json:
        print(json.dumps(prepared.manifest, indent=1))
    else:
        Console(highlight=False).print(summary(prepared))


def summary(prepared: Prepared) -> Table:
    """The manifest as a table for people."""
    m = prepared.manifest
    table = Table(title=str(prepared.path), title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    first, last = (
        datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC).strftime("%F %R") for ms in m["time_range_ms"]
    )
    settings = m["settings"]
    quantiles = ", ".join(f"{_percent(q)} {n}" for q, n in m["sessions_per_user_quantiles"].items())
    side = ", ".join(
        f"{c['name']} ({c['values']:,} values{', lists of up to ' + str(c['width']) if c['width'] > 1 else ''})"
        for c in m["side_columns"]
    )
    rejected = ", ".join(f"{reason} {count:,}" for reason, count in m["rejected"].items())
    rows = {
        "source": f"{m['source']}, {first} to {last} UTC",
        "fingerprint": m["fingerprint"],
        "users": f"{m['users']:,}, of them {m['users_without_target']:,} without a session to predict",
        "items": f"{m['items']:,}, of them {m['items_exposed']:,} exposed",
        "sessions": f"{m['sessions']:,} by {settings['session_rule']}; {_decimal(m['sessions_per_user_mean'])} a user "
        f"(quantiles: {quantiles})",
        "exposures": f"{m['exposures']:,}, of them {m['context_exposures']:,} context; "
        f"{_decimal(m['items_per_session_mean'])} a session, at most {m['max_session_items']}",
        "clicks": f"{m['clicks']:,}, {m['click_rate']:.1%} of the labelled exposures",
        "feedback": ", ".join(m["feedback_names"]),
        "split": settings["split"],
        "sessions by role": _by_role(m["sessions_by_role"]),
        "to predict": f"{_by_role(m['target_sessions_by_role'])} (sessions with one before them)",
        "side information": side or "-",
        "rejected": f"{rejected} of {m['rows']:,} rows, in rejected.parquet" if rejected else "no row",
        "note": m["note"] or "-",
    }
    for name, text in rows.items():
        table.add_row(f"[bold]{name}[/]", text)
    return table


def _percent(quantile: str) -> str:
    return f"{float(quantile):.0%}"


def _decimal(value: float) -> str:
    return f"{value:.2f}"


def _by_role(counts: dict[str, int]) -> str:
    return ", ".join(f"{role} {count:,}" for role, count in counts.items())
