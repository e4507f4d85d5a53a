"""Tests the reporting checklist and the LaTeX table: nothing is guessed, and a missing entry names what would
supply it.
"""

import dataclasses
import re

import numpy as np
import polars as pl
import pytest
from report_runs import OF_BOTH, runs, surface, without_floor

import scaling
from experiments.cli.report_columns import REPORT_COLUMNS
from scaling.errors import Refusal
from scaling.report import latex
from scaling.report.checklist import answered
from scaling.report.checklist import checklist as checklist_of
from scaling.table.run_table import from_frame

pytestmark = pytest.mark.usefixtures("few_forms")

COLUMN_OF = {
    "Which learning-rate schedule?": ("schedule", "cosine"),
    "By which rule is the learning rate set?": ("learning_rate_rule", "fixed"),
    "How are FLOPs counted?": ("flops_convention", "backward twice forward"),
    "On which data?": ("dataset_fingerprint", "ab12"),
    "Is data repeated within a run?": ("epochs", 1.0),
    "Which batch size?": ("batch_size", 256),
    "How many seeds?": ("seed", 3),
    "On which hardware?": ("device_kind", "cpu"),
    "Which optimizer?": ("optimizer", "adamw"),
    "Measured on which data?": ("evaluation_set", "test"),
    "How exact is each measured value?": ("loss_stderr", 0.001),
    "Final losses or checkpoints?": ("status", "done"),
}


@pytest.fixture(scope="module")
def with_floor():
    """Returns (table, fit) of a law of D with a floor."""
    table = from_frame(runs(), OF_BOTH)
    return table, scaling.fit(table, "power_floor", bootstrap=100)


def checklist(table, fit):
    return checklist_of(table, fit, REPORT_COLUMNS)


def rows_in_latex(source: str) -> list[str]:
    return [line for line in source.splitlines() if line.endswith(r"\\") and not line.startswith("%")]


@pytest.mark.parametrize(("question", "column"), COLUMN_OF.items())
def test_an_answer_is_missing_exactly_when_its_column_is(question, column):
    def item(frame):
        table = from_frame(frame, OF_BOTH)
        return {item.question: item for item in checklist(table, None)}[question]

    bare = surface(np.geomspace(1e5, 1e6, 4), np.geomspace(1e6, 1e7, 4))
    missing, given = item(bare), item(bare.with_columns(pl.lit(column[1]).alias(column[0])))
    assert missing.answer is None
    assert column[0] in missing.source
    assert given.answer
    assert column[0] in given.source
    empty = item(bare.with_columns(pl.lit(None).alias(column[0]))) if column[0] != "status" else missing
    assert empty.answer is None


def test_the_checklist_of_a_fit_comes_from_the_fit(with_floor):
    table, fit = with_floor
    items = checklist(table, fit)
    by_question = {item.question: item for item in items}
    assert {item.category for item in items} == {
        "scaling law hypothesis", "training setup", "data collection", "fitting algorithm"
    }  # fmt: skip
    assert len(by_question) == len(items)
    assert fit.law.formula in by_question["Which form does the law have?"].answer
    assert f"delta {fit.objective.delta:.3g}" in by_question["Which objective?"].answer
    assert by_question["How large is the noise between repeats?"].answer is None
    without = dataclasses.replace(fit, cloud_SP=fit.cloud_SP[:0], heldout=())
    lost = {item.question for item in items if item.answer} - {
        i.question for i in checklist(table, without) if i.answer
    }
    assert lost == {
        "How is uncertainty measured?", "Which parameters are open?", "Was the law held to runs it had not seen?"
    }  # fmt: skip
    assert answered(checklist(table, None)) < answered(items)


def test_latex_has_four_columns_in_every_row_and_balanced_braces(with_floor):
    _, fit = with_floor
    refusal = Refusal("too few {runs} & a $ sign")
    source = latex.table([("power_floor", fit), ("chinchilla_no_floor", refusal)])
    rows = rows_in_latex(source)
    assert len(rows) == 1 + 7 + 1  # the head; formula, three parameters, objective, held-out error, runs; the refusal
    assert all(len(re.findall(r"(?<!\\)&", row)) == 3 for row in rows)
    assert all(len(re.findall(r"(?<!\\)\$", row)) % 2 == 0 for row in rows)
    printed = "\n".join(line for line in source.splitlines() if not line.startswith("%"))
    opened, closed = (len(re.findall(rf"(?<!\\)\{brace}", printed)) for brace in "{}")
    assert opened == closed
    assert r"chinchilla\_no\_floor & refused" in source


def test_latex_bounds_what_is_open_and_escapes_the_rest():
    _, fit = without_floor()
    fit = dataclasses.replace(fit, bounds={"E": (None, 0.0125)})
    row = next(row for row in rows_in_latex(latex.table([("power_floor", fit)])) if "$E$" in row)
    assert "& open &" in row
    assert "& $< 0.0125$ " in row
    assert latex.escape("50% of a_b & {c}\n#1 $x$ ~^\\") == (
        r"50\% of a\_b \& \{c\} \#1 \$x\$ \textasciitilde{}\textasciicircum{}\textbackslash{}"
    )
    assert latex.number(1.5e-7, 3) == r"$1.5 \times 10^{-7}$"
    assert latex.math("E + A / N^alpha") == r"$E + A / N^{\alpha }$"
    assert latex.math("(B / D^beta)^(1/gamma) * L_0") == r"$(B / D^{\beta })^{1/\gamma } \cdot L_{0}$"
