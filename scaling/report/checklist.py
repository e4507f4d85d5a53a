"""What a reader needs to repeat a scaling fit, answered from the table and the fit, or marked as missing.

The categories are those that Li et al. (2502.18969) find under-reported: the hypothesis, the training setup, the data
collection and the fitting algorithm. The questions are this project's own. An answer is never guessed: where no column
says it, it is missing, and `source` names the column or flag that would say it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from scaling.fitting.fit import Fit
from scaling.fitting.minimize import DECREMENT_TOLERANCE, STEP_TOLERANCE
from scaling.fitting.problem import SCREEN_KEEPS
from scaling.table.run_table import RunTable

HYPOTHESIS, TRAINING = "scaling law hypothesis", "training setup"
COLLECTION, FITTING = "data collection", "fitting algorithm"
CATEGORIES = (HYPOTHESIS, TRAINING, COLLECTION, FITTING)
COUNTED_IN_N = {
    "params_body": "without item tables and embeddings",
    "params_total": "with item tables and embeddings",
    "params_item_table": "item tables alone",
}
"""What this project's own columns of N hold; of any other column the name does not tell."""
VALUES_SHOWN = 4


@dataclass(frozen=True)
class Item:
    category: str
    question: str
    answer: str | None
    """None: missing."""
    source: str
    """Where the answer is from; of a missing one, what would supply it."""


def checklist(table: RunTable, fit: Fit | None) -> list[Item]:
    """The checklist of a fit, or of a table whose fit was refused (None): then what only a fit tells is missing.

    Categories after Li et al. 2025 (2502.18969).
    """
    return [*_hypothesis(table, fit), *_training(table), *_collection(table), *_fitting(fit)]


def answered(items: Sequence[Item]) -> int:
    """How many of the items have an answer."""
    return sum(item.answer is not None for item in items)


def _hypothesis(table: RunTable, fit: Fit | None) -> list[Item]:
    columns = table.columns
    law, source = fit and fit.law, "the fit" if fit else "a fit: this one was refused"
    compared = fit and fit.forms and sorted({row.law for row in fit.forms.rows if row.refused is None})
    variables = [
        f"{what} from {name!r}"
        for what, name in (
            ("N", columns.n),
            ("D", columns.d),
            ("C", columns.flops),
            ("unique D", columns.unique),
            ("loss", columns.loss),
            ("metric", columns.metric),
        )
        if name
    ]
    floor = None
    if fit:
        floor = "known, not fitted" if fit.known_floor is not None else "fitted" if fit.law.has_floor else "none: 0"
    return [
        Item(HYPOTHESIS, "Which form does the law have?", law and f"{law.name}: {law.formula}", source),
        Item(HYPOTHESIS, "Where is the form from?", law and law.source, source),
        Item(HYPOTHESIS, "What does it assume?", law and law.assumptions, source),
        Item(
            HYPOTHESIS,
            "How many parameters are fitted?",
            law and f"{len(law.free_params(fit.known_floor))}: {', '.join(law.free_params(fit.known_floor))}",
            source,
        ),
        Item(HYPOTHESIS, "Which columns are its variables?", "; ".join(variables) or None, "the named columns"),
        Item(HYPOTHESIS, "Is the irreducible loss fitted, known or absent?", floor, source),
        Item(
            HYPOTHESIS,
            "Which other forms were tried?",
            ", ".join(compared) if compared else None,
            "the held-out comparison of forms" if compared else "a table large enough to hold runs out of every form",
        ),
    ]


def _training(table: RunTable) -> list[Item]:
    columns = table.columns
    return [
        Item(
            TRAINING,
            "How many runs, of how many sizes and data sizes?",
            f"{len(table)} runs, {_distinct('N', table.n)}, {_distinct('D', table.d)}",
            "the table",
        ),
        Item(TRAINING, "Over which range of N?", _range(table.n), columns.n or "a column of N (--n)"),
        Item(TRAINING, "Over which range of D?", _range(table.d), columns.d or columns.flops or "a column of D (--d)"),
        Item(TRAINING, "Over which range of D / N?", _ratio(table), "N and D" if table.n is not None else "--n"),
        Item(
            TRAINING,
            "Are item tables or embeddings counted in N?",
            COUNTED_IN_N.get(columns.n),
            columns.n if columns.n in COUNTED_IN_N else "N from params_body or params_total",
        ),
        Item(TRAINING, "What does D count?", _data_unit(table), columns.d or columns.flops or "--d"),
        _repeats(table),
        _of_column(TRAINING, table, "How are FLOPs counted?", ("flops_convention",)),
        _of_column(TRAINING, table, "On which data?", ("dataset_fingerprint", "dataset", "data")),
        _of_column(
            TRAINING,
            table,
            "Which architecture?",
            ("architecture", "paradigm", "session_encoder", "sequence_encoder"),
            every=True,
        ),
        _of_column(TRAINING, table, "Which optimizer?", ("optimizer",)),
        _of_column(
            TRAINING, table, "Which learning-rate schedule?", ("schedule", "learning_rate_schedule", "lr_schedule")
        ),
        _of_column(TRAINING, table, "By which rule is the learning rate set?", ("learning_rate_rule", "lr_rule")),
        _of_column(TRAINING, table, "Which batch size?", ("batch_size", "batch_sessions", "batch_tokens")),
        Item(
            TRAINING,
            "Are settings tuned for each size?",
            f"yes: the lowest {columns.select_by} within {', '.join(columns.select_within)}"
            if columns.select_by
            else None,
            "--select-by" if columns.select_by else "--select-by and --select-within, with the runs of all settings",
        ),
        _of_column(TRAINING, table, "How many seeds?", (columns.seed_column or "seed",), "{distinct} ({values})"),
        _of_column(
            TRAINING, table, "Which code and versions trained?", ("commit", "jax_version", "torch_version"), every=True
        ),
        _of_column(TRAINING, table, "On which hardware?", ("device_kind", "hardware")),
    ]


def _collection(table: RunTable) -> list[Item]:
    columns = table.columns
    rules = ", ".join(f"{count} {rule}" for rule, count in table.excluded_by_rule().items())
    several = columns.cluster is not None and len(np.unique(table.cluster)) < len(table)
    final = None
    if several:
        final = f"several rows a run, told apart by {columns.cluster!r}"
    elif columns.progress is not None or "status" in table.frame.columns:
        final = "final values of finished runs, one row a run"
    what = columns.loss or columns.metric
    return [
        Item(COLLECTION, "Which measure is the response?", what, "the named column"),
        _of_column(COLLECTION, table, "Measured on which data?", ("evaluation_set", "dataset_fingerprint", "dataset")),
        Item(
            COLLECTION,
            "Final losses or checkpoints?",
            final,
            columns.cluster
            or columns.progress
            or ("status" if final else "a column status, or --progress or --cluster"),
        ),
        _of_column(
            COLLECTION, table, "How exact is each measured value?", (f"{what}_stderr", "loss_stderr"), "from {name}"
        ),
        Item(COLLECTION, "Which rows were left out, and why?", rules or "none", "the rules of exclusion"),
        Item(
            COLLECTION,
            "Which rows exactly?",
            f"SHA-256 {table.data_hash()[:16]} of {Path(table.source).name}",
            "the table",
        ),
    ]


def _fitting(fit: Fit | None) -> list[Item]:
    def item(question: str, answer: str | None, missing: str = "a fit: this one was refused") -> Item:
        return Item(FITTING, question, answer, "the fit" if answer is not None else missing)

    if fit is None:
        questions = ("objective", "algorithm", "starting points", "competing minima", "uncertainty", "check")
        return [item(f"Which {name}?", None) for name in questions]
    gaps = fit.minima[1].gap if len(fit.minima) > 1 else None
    delta = f", delta {fit.objective.delta:.3g} nats" if fit.objective.name == "huber" else ""
    draws = f"{len(fit.cloud_SP)} bootstrap draws of whole clusters, 95 % percentile intervals, seed {fit.seed}"
    held = max((run.extrapolation_factor for run in fit.heldout), default=None)
    is_usual = fit.law.name == "chinchilla" and fit.known_floor is None
    usual = " and the 4,500 of Hoffmann et al. 2022" if is_usual else ""
    noise, misfit = fit.seed_noise, fit.lack_of_fit
    return [
        item("Which objective?", f"sum of {fit.objective.name} of residuals in log response{delta}"),
        item(
            "Which algorithm, stopped by what?",
            f"damped Newton with the exact Hessian, until its step is below {STEP_TOLERANCE:g} or its decrement below "
            f"{DECREMENT_TOLERANCE:g} of the objective",
        ),
        item(
            "Which starting points?",
            f"a grid of shapes with the sizes in closed form{usual}; the best {SCREEN_KEEPS} go on",
        ),
        item(
            "Are there competing minima?",
            "none found" if gaps is None else f"{len(fit.minima) - 1}, the next {gaps:.2g} above in the objective",
        ),
        item("How is uncertainty measured?", draws if len(fit.cloud_SP) else None, "--bootstrap above 0"),
        item(
            "Was the law held to runs it had not seen?",
            None if held is None else f"{len(fit.heldout)} largest runs, up to {held:.3g} times past the fitted ones",
            "enough runs to refit without the largest",
        ),
        item(
            "Which parameters are open?",
            ", ".join(fit.open_intervals) or "none" if len(fit.cloud_SP) else None,
            "--bootstrap above 0",
        ),
        item(
            "How large is the noise between repeats?",
            noise
            and f"standard deviation {noise.sigma:.2g} of log response, {noise.degrees_of_freedom} degrees of freedom",
            "runs that differ in the seed alone",
        ),
        item(
            "Does the law misfit beyond that noise?",
            misfit and f"F test, p = {misfit.p_value:.2g}",
            "runs that differ in the seed alone",
        ),
        item("With which software?", _version(), "an installed package"),
    ]


def _of_column(
    category: str, table: RunTable, question: str, names: Sequence[str], text: str = "{values}", every: bool = False
) -> Item:
    """Answered by the first of the columns that the table has with any value, or by `every` one of them."""
    present = [n for n in names if n in table.frame.columns and table.frame[n].null_count() < len(table.frame)]
    if not present:
        return Item(category, question, None, f"a column {' or '.join(dict.fromkeys(names))}")
    shown = present if every else present[:1]
    parts = []
    for name in shown:
        distinct = table.frame[name].drop_nulls().unique(maintain_order=True).to_list()
        values = f"{name} {_values(distinct)}" if every else _values(distinct)
        parts.append(text.format(name=name, values=values, distinct=len(distinct)))
    return Item(category, question, "; ".join(parts), ", ".join(shown))


def _values(distinct: list) -> str:
    if len(distinct) > VALUES_SHOWN and all(isinstance(v, int | float) for v in distinct):
        return f"{min(distinct):.6g} to {max(distinct):.6g}"
    more = f" and {len(distinct) - VALUES_SHOWN} more" if len(distinct) > VALUES_SHOWN else ""
    words = [f"{v:.6g}" if isinstance(v, float) else str(v) for v in distinct[:VALUES_SHOWN]]
    return ", ".join(words) + more


def _distinct(axis: str, values: np.ndarray | None) -> str:
    return f"no {axis}" if values is None else f"{len(np.unique(values))} distinct {axis}"


def _range(values: np.ndarray | None) -> str | None:
    if values is None or not len(values):
        return None
    low, high = float(values.min()), float(values.max())
    return f"{low:.4g} to {high:.4g}, {np.log10(high / low):.2g} decades"


def _ratio(table: RunTable) -> str | None:
    return None if table.n is None or table.d is None or not len(table) else _range(table.d / table.n)


def _repeats(table: RunTable) -> Item:
    question = "Is data repeated within a run?"
    if table.unique is None:
        return _of_column(TRAINING, table, question, ("epochs", "epochs_planned"), "{name} {values}")
    times = table.d / table.unique
    return Item(TRAINING, question, f"D is {times.min():.3g} to {times.max():.3g} times the distinct data", "--unique")


def _data_unit(table: RunTable) -> str | None:
    if table.columns.d is not None:
        return table.columns.d.replace("_", " ")
    return "training FLOPs / (6 N)" if table.columns.flops is not None else None


def _version() -> str | None:
    try:
        return f"sessionrec-jax {metadata.version('sessionrec-jax')}, numpy {np.__version__}"
    except metadata.PackageNotFoundError:
        return None
