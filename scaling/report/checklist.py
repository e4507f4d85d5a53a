"""The facts that a reader needs to repeat a scaling fit, taken from the table and the fit.

The categories are those that Li et al. (2502.18969) find under-reported. The questions are this project's own. An
answer is never guessed: if no column has it, it is missing, and `source` names what would supply it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scaling.fitting.minimize import DECREMENT_TOLERANCE, STEP_TOLERANCE
from scaling.fitting.misfit import REPEATS
from scaling.fitting.problem import FEW_ROWS, SCREEN, SOME_ROWS_SCREEN
from scaling.fitting.result import Fit
from scaling.report.columns import ReportColumns
from scaling.table.run_table import RunTable

VALUES_SHOWN = 4
NO_FIT = "a fit: this one was refused"


class Answer(NamedTuple):
    question: str
    answer: str | None
    """None: missing."""
    source: str
    """The origin of the answer, or what would supply a missing one."""


@dataclass(frozen=True)
class Item:
    """An answer in its category: one entry of checklist.json."""

    category: str
    question: str
    answer: str | None
    source: str


def checklist(table: RunTable, fit: Fit | None, columns: ReportColumns) -> list[Item]:
    """Returns the checklist of a fit. Without a fit, the answers that only a fit gives are missing.

    Categories after Li et al. 2025 (2502.18969).
    """
    read = _ColumnReader(table)
    answers = {
        "scaling law hypothesis": _hypothesis(table, fit),
        "training setup": [*_runs(table, columns), *_training(table, columns, read)],
        "data collection": _collection(table, columns, read),
        "fitting algorithm": _unfitted() if fit is None else [*_algorithm(fit), *_trust(fit)],
    }
    return [Item(category, a.question, a.answer, a.source) for category, group in answers.items() for a in group]


def answered(items: Sequence[Item]) -> int:
    """Counts the items that have an answer."""
    return sum(item.answer is not None for item in items)


def _hypothesis(table: RunTable, fit: Fit | None) -> list[Answer]:
    names = table.columns
    fields = {
        "N": names.n, "D": names.d, "C": names.flops, "unique D": names.unique, "loss": names.loss,
        "metric": names.metric,
    }  # fmt: skip
    variables = "; ".join(f"{what} from {name!r}" for what, name in fields.items() if name)
    asked = ("Which form does the law have?", "Where is the form from?", "What does it assume?")
    if fit is None:
        law = [Answer(question, None, NO_FIT) for question in (*asked, "How many parameters are fitted?")]
        floor, compared = None, []
    else:
        free = fit.law.free_params(fit.known_floor)
        facts = (f"{fit.law.name}: {fit.law.formula}", fit.law.source, fit.law.assumptions)
        law = [Answer(question, fact, "the fit") for question, fact in zip(asked, facts, strict=True)]
        law.append(Answer("How many parameters are fitted?", f"{len(free)}: {', '.join(free)}", "the fit"))
        floor = "known, not fitted" if fit.known_floor is not None else "fitted" if fit.law.has_floor else "none: 0"
        compared = [] if fit.forms is None else sorted({row.law for row in fit.forms.rows if row.refused is None})
    held_out = "the held-out comparison of forms" if compared else "a table large enough to hold runs out of every form"
    return [
        *law,
        Answer("Which columns are its variables?", variables or None, "the named columns"),
        Answer("Is the irreducible loss fitted, known or absent?", floor, NO_FIT if fit is None else "the fit"),
        Answer("Which other forms were tried?", ", ".join(compared) or None, held_out),
    ]


def _runs(table: RunTable, columns: ReportColumns) -> list[Answer]:
    names = table.columns
    sizes = f"{len(table)} runs, {_distinct('N', table.n)}, {_distinct('D', table.d)}"
    counted = columns.counted_in_n.get(names.n or "")
    of_n = f"N from {' or '.join(columns.counted_in_n) or 'a column that says what it counts'}"
    return [
        Answer("How many runs, of how many sizes and data sizes?", sizes, "the table"),
        Answer("Over which range of N?", _range(table.n), names.n or "a column of N (--n)"),
        Answer("Over which range of D?", _range(table.d), names.d or names.flops or "a column of D (--d)"),
        Answer("Over which range of D / N?", _ratio(table), "N and D" if table.n is not None else "--n"),
        Answer("Are item tables or embeddings counted in N?", counted, names.n or of_n if counted else of_n),
        Answer("What does D count?", _data_unit(table), names.d or names.flops or "--d"),
    ]


def _training(table: RunTable, columns: ReportColumns, read: _ColumnReader) -> list[Answer]:
    names = table.columns
    tuned = f"yes: the lowest {names.select_by} within {', '.join(names.select_within)}" if names.select_by else None
    flags = "--select-by" if tuned else "--select-by and --select-within, with the runs of all settings"
    if table.unique is None or table.d is None:
        repeats = read.first("Is data repeated within a run?", columns.epochs, "{name} {values}")
    else:
        times = table.d / table.unique
        text = f"D is {times.min():.3g} to {times.max():.3g} times the distinct data"
        repeats = Answer("Is data repeated within a run?", text, "--unique")
    return [
        repeats,
        read.first("How are FLOPs counted?", columns.flops_convention),
        read.first("On which data?", columns.data),
        read.every("Which architecture?", columns.architecture),
        read.first("Which optimizer?", columns.optimizer),
        read.first("Which learning-rate schedule?", columns.learning_rate_schedule),
        read.first("By which rule is the learning rate set?", columns.learning_rate_rule),
        read.first("Which batch size?", columns.batch_size),
        Answer("Are settings tuned for each size?", tuned, flags) if tuned else _same_rate(columns, read, flags),
        read.first("How many seeds?", (names.seed_column or "seed",), "{distinct} ({values})"),
        read.every("Which code and versions trained?", columns.versions),
        read.first("On which hardware?", columns.hardware),
    ]


def _same_rate(columns: ReportColumns, read: _ColumnReader, flags: str) -> Answer:
    """Answers whether settings are tuned where no run is selected: not, if all runs have the same learning rate."""
    question = "Are settings tuned for each size?"
    said = read.first(question, columns.learning_rate, "{distinct}")
    if said.answer != "1":
        return Answer(question, None, flags)
    return read.first(question, columns.learning_rate, "no: {name} is {values} in every run")


def _collection(table: RunTable, columns: ReportColumns, read: _ColumnReader) -> list[Answer]:
    names = table.columns
    rules = ", ".join(f"{count} {rule}" for rule, count in table.excluded_by_rule().items())
    final = None
    if names.cluster is not None and len(np.unique(table.cluster)) < len(table):
        final = f"several rows a run, which {names.cluster!r} names"
    elif names.progress is not None or "status" in table.frame.columns:
        final = "final values of finished runs, one row a run"
    source = "status" if final else "a column status, or --progress or --cluster"
    exact = f"SHA-256 {table.data_hash()[:16]} of {Path(table.source).name}"
    stderr = (f"{names.response}_stderr", *columns.stderr)
    return [
        Answer("Which measure is the response?", names.response, "the named column"),
        read.first("Measured on which data?", columns.evaluation_data),
        Answer("Final losses or checkpoints?", final, names.cluster or names.progress or source),
        read.first("How exact is each measured value?", stderr, "from {name}"),
        Answer("Which rows were excluded, and why?", rules or "none", "the rules of exclusion"),
        Answer("Which rows exactly?", exact, "the table"),
    ]


def _unfitted() -> list[Answer]:
    questions = ("objective", "algorithm", "starting points", "competing minima", "uncertainty", "check")
    return [Answer(f"Which {name}?", None, NO_FIT) for name in questions]


def _algorithm(fit: Fit) -> list[Answer]:
    delta = f", delta {fit.objective.delta:.3g} nats" if fit.objective.name == "huber" else ""
    is_usual = fit.law.name == "chinchilla" and fit.known_floor is None
    usual = " and the 4,500 of Hoffmann et al. 2022" if is_usual else ""
    algorithm = (
        f"damped Newton with the exact Hessian, until its step is below {STEP_TOLERANCE:g} or its decrement below "
        f"{DECREMENT_TOLERANCE:g} of the objective"
    )
    go_on = (SCREEN if len(fit.table) <= FEW_ROWS else SOME_ROWS_SCREEN)[-1][1]
    starts = f"a grid of shapes with the sizes in closed form{usual}; the best {go_on} go on"
    minima = "none found"
    if len(fit.minima) > 1:
        minima = f"{len(fit.minima) - 1}, the next {fit.minima[1].gap:.2g} above in the objective"
    return [
        _of_fit("Which objective?", f"sum of {fit.objective.name} of residuals in log response{delta}"),
        _of_fit("Which algorithm, stopped by what?", algorithm),
        _of_fit("Which starting points?", starts),
        _of_fit("Are there competing minima?", minima),
    ]


def _trust(fit: Fit) -> list[Answer]:
    draws = opened = held = sigma = misfit = None
    if len(fit.cloud_SP):
        draws = f"{len(fit.cloud_SP)} bootstrap draws of whole clusters, 95 % percentile intervals, seed {fit.seed}"
        opened = ", ".join(fit.open_intervals) or "none"
    if fit.heldout:
        furthest = max(run.extrapolation_factor for run in fit.heldout)
        held = f"{len(fit.heldout)} largest runs, up to {furthest:.3g} times past the fitted ones"
    if fit.seed_noise is not None:
        noise = fit.seed_noise
        sigma = f"standard deviation {noise.sigma:.2g} of log response, {noise.degrees_of_freedom} degrees of freedom"
    repeats = fit.misfit.of(REPEATS)
    if repeats is not None and repeats.misfits is not None:
        misfit = repeats.says
    enough, seeds = "enough runs to refit without the largest", "runs that differ in the seed alone"
    verdict = f"{fit.misfit.verdict}: {fit.misfit.sentences[0]}"
    return [
        _of_fit("Do the runs follow the law?", verdict),
        _of_fit("How is uncertainty measured?", draws, "--bootstrap above 0"),
        _of_fit("Was the law held to runs it had not seen?", held, enough),
        _of_fit("Which parameters are open?", opened, "--bootstrap above 0"),
        _of_fit("How large is the noise between repeats?", sigma, seeds),
        _of_fit("Does the law misfit beyond that noise?", misfit, seeds),
        _of_fit("With which software?", _version(), "an installed package"),
    ]


def _of_fit(question: str, answer: str | None, missing: str = "") -> Answer:
    return Answer(question, answer, "the fit" if answer is not None else missing)


@dataclass(frozen=True)
class _ColumnReader:
    """Answers questions from the columns of a table."""

    table: RunTable

    def first(self, question: str, names: Sequence[str], text: str = "{values}") -> Answer:
        """Answers from the first of the columns that has values."""
        return self._answer(question, names, self._present(names)[:1], text)

    def every(self, question: str, names: Sequence[str]) -> Answer:
        """Answers from all of the columns that have values."""
        return self._answer(question, names, self._present(names), "{name} {values}")

    def _present(self, names: Sequence[str]) -> list[str]:
        frame = self.table.frame
        return [name for name in names if name in frame.columns and frame[name].null_count() < len(frame)]

    def _answer(self, question: str, names: Sequence[str], shown: Sequence[str], text: str) -> Answer:
        if not shown:
            return Answer(question, None, f"a column {' or '.join(dict.fromkeys(names))}".rstrip())
        parts = []
        for name in shown:
            distinct = self.table.frame[name].drop_nulls().unique(maintain_order=True).to_list()
            parts.append(text.format(name=name, values=_values(distinct), distinct=len(distinct)))
        return Answer(question, "; ".join(parts), ", ".join(shown))


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
    return None if table.n is None or table.d is None else _range(table.d / table.n)


def _data_unit(table: RunTable) -> str | None:
    if table.columns.d is not None:
        return table.columns.d.replace("_", " ")
    return "training FLOPs / (6 N)" if table.columns.flops is not None else None


def _version() -> str | None:
    try:
        return f"sessionrec-jax {metadata.version('sessionrec-jax')}, numpy {np.__version__}"
    except metadata.PackageNotFoundError:
        return None
