"""The card of an exported model: what it was made from, how well it ranks, and what it must not be used for.

No jax of its own: numbers come from the run's row. A 95 % interval is value +- 1.96 standard errors over users.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

from sessionrec_jax.config.values import replace, run_id, to_dict
from sessionrec_jax.evaluation.trained_model import TrainedModel
from sessionrec_jax.row import parameters
from sessionrec_jax.row_columns import METRICS, REFERENCES
from sessionrec_jax.serving.search import recall_line

_Z95 = 1.959964
INTENDED = (
    "Rank items of the catalogue it was trained on for users of the same service, from their own past sessions.",
    "Give vectors of these items, and compare methods on the same log.",
)
NOT_FOR = (
    "Decisions about a person, such as credit, work, health or prices: a ranking of items says nothing about a person.",
    "Guessing who somebody is, or traits of theirs, from a history.",
    "Items outside its catalogue: it leaves them out of histories and never recommends them.",
    "Claims about cause: it learned which shown items were clicked, under the service's old choice of what to show.",
    "Another service, market or time than the log's, without measuring it there first.",
)


def facts(run: TrainedModel, row: dict[str, Any] | None) -> dict[str, Any]:
    """Returns the card as values for JSON, without what only the exported program needs."""
    config, log = run.config, run.log
    return {
        "run_id": run_id(config),
        "made_by": f"sessionrec-jax {metadata.version('sessionrec-jax')}",
        "jax": metadata.version("jax"),
        "status": None if row is None else row["status"],
        "step": run.step,
        "log": {name: log.manifest[name] for name in ("source", "fingerprint", "users", "items", "time_range_ms")},
        "parameters": parameters(run.spec),
        "metrics": {} if row is None else _metrics(row),
        "references": {} if row is None else _references(row),
        "measured_on": None if row is None else {name: row.get(name) for name in ("split", "seen_items")},
        "intended_use": list(INTENDED),
        "not_for": list(NOT_FOR) + _own_limits(run),
        "settings": to_dict(replace(config, {"data.path": ""})),  # the path of a machine is nobody's business
    }


def _metrics(row: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """Returns the metrics with their intervals. Where all users have the same value, the interval is not known."""
    found = {}
    for column in METRICS:
        value, error = row.get(column.name), row.get(f"{column.name}_stderr")
        if value is not None and error is not None:
            low, high = (value - _Z95 * error, value + _Z95 * error) if error else (None, None)
            found[column.name] = {"value": value, "low": low, "high": high}
    return found


def _references(row: dict[str, Any]) -> dict[str, float]:
    return {column.name: row[column.name] for column in REFERENCES if row.get(column.name) is not None}


def _own_limits(run: TrainedModel) -> list[str]:
    """Returns what this very model must not be used for."""
    found = []
    if run.config.loss.other_clicks == "masked":
        found.append(
            "Probabilities: it was trained with other_clicks masked, so its scores rank but are not calibrated."
        )
    if run.log.manifest["source"] == "synthetic":
        found.append("Anything but tests of the method: its log was drawn from a known process, not made by people.")
    return found


def markdown(facts: dict[str, Any]) -> str:
    """Returns README.md of the exported folder."""
    log, settings = facts["log"], facts["settings"]
    model = settings["model"]
    return "\n".join(
        [
            f"# Next-session recommender {facts['run_id']}",
            "",
            f"A SessionRec model ({model['session_encoder']}, {model['sequence_encoder']}, width {model['width']}, "
            f"{model['layers']} layers), exported by {facts['made_by']} with jax {facts['jax']}.",
            f"It was trained on the log `{log['source']}` with the fingerprint `{log['fingerprint']}`: "
            f"{log['users']:,} users and {log['items']:,} items. Its parameters have seen {facts['step']:,} steps.",
            _state(facts["status"]),
            "",
            "## Intended use",
            "",
            *(f"* {line}" for line in facts["intended_use"]),
            "",
            "## It must not be used for",
            "",
            *(f"* {line}" for line in facts["not_for"]),
            "",
            "The folder has no history of any user. A history that is sent to a service is personal data of its user.",
            "",
            "## Parameters",
            "",
            "| group | parameters |",
            "|---|---|",
            *(f"| {name.removeprefix('params_')} | {count:,} |" for name, count in facts["parameters"].items()),
            "",
            *_measured(facts),
            *_search(facts),
            "## How to load it",
            "",
            "docs/serving.md of SessionRec-JAX shows it with jax and numpy alone. `model.json` has every setting.",
            "",
        ]
    )


def _state(status: str | None) -> str:
    if status is None:
        return "**The run has not finished training**, and nothing was measured."
    if status == "stuck":
        return "**The run never learned** (status stuck): its answers hardly depend on the history."
    return f"The status of its run is {status}."


def _interval(metric: dict[str, Any]) -> str:
    return "" if metric["low"] is None else f"[{metric['low']:.4f}, {metric['high']:.4f}]"


def _measured(facts: dict[str, Any]) -> list[str]:
    if not facts["metrics"]:
        return []
    on = facts["measured_on"]
    metrics = facts["metrics"].items()
    rows = (f"| {name} | {metric['value']:.4f} | {_interval(metric)} |" for name, metric in metrics)
    others = (f"| {name} | {value:.4f} | |" for name, value in facts["references"].items())
    return [
        "## Measured on the test sessions",
        "",
        f"Split {on['split']}; items that the user saw before are {on['seen_items']}; one run of one seed. An interval "
        "is 95 %, over users, and says nothing about other seeds.",
        "",
        "| metric | value | interval |",
        "|---|---|---|",
        *rows,
        *others,
        "",
    ]


def _search(facts: dict[str, Any]) -> list[str]:
    if facts["search"] is None:
        return []
    line = recall_line(facts["search"])
    return ["## Approximate search", "", f"{line[0].upper()}{line[1:]} ({facts['search']['library']}).", ""]
