"""Holds the law that was fitted to the runs of an axis against the truth."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

import scaling
from experiments.demo.axes import Axis
from scaling.laws.theory import Theory
from scaling.table import run_table


@dataclass(frozen=True)
class Recovered:
    """The runs of an axis, the law through them, and the truth."""

    axis: Axis
    runs: scaling.RunTable
    law: str
    fit: scaling.Fit | scaling.Refusal
    theory: Theory

    def lines(self) -> list[str]:
        """Returns the exponent next to the exact one, and the held-out error, each as a line of text."""
        if isinstance(self.fit, scaling.Refusal):
            return [f"exponent: refused. {self.fit}", "held out: -"]
        return [f"exponent {self.fit.describe('beta')}, {self._exact(self.fit)}", _held_out(self.fit)]

    def _exact(self, fit: scaling.Fit) -> str:
        """Compares the exponent with that of the exact learner on the same data, or with the theory's."""
        value, interval = fit.params["beta"], fit.interval95["beta"]
        exact, name = self.theory.exponent, "theory"
        if self.theory.curve:
            exact, name = self._learners_exponent(), "the exact learner on the same sessions"
        off = "" if value is None else f" ({value / exact - 1:+.1%}"
        if interval:
            inside = interval[0] <= exact <= interval[1]
            off += f", {'inside' if inside else 'OUTSIDE'} the interval"
        endless = f"; theory, endless catalogue {self.theory.exponent:.4f}" if self.theory.curve else ""
        return f"{name} {exact:.4f}{off and off + ')'}{endless}"

    def _learners_exponent(self) -> float:
        """Returns the exponent of the reference curve, fitted by the same law with the same floor."""
        points = [(d, self.theory.floor + excess) for d, excess in self.theory.curve if d >= 0.95 * self.runs.d.min()]
        frame = pl.DataFrame(points, schema=["d", "loss"], orient="row")
        table = run_table.from_frame(frame, scaling.Columns(loss="loss", d="d"), source="reference curve")
        return scaling.fit(table, self.law, floor=self.theory.floor, bootstrap=0, full=False).params["beta"]


def _held_out(fit: scaling.Fit) -> str:
    """Describes the prediction of the run that is furthest past the fitted ones."""
    if not fit.heldout:
        return "held out: - " + " ".join(fit.warnings)
    run = max(fit.heldout, key=lambda run: run.extrapolation_factor)
    of_excess = "" if run.excess_relative_error is None else f", {run.excess_relative_error:+.1%} of the excess"
    return (
        f"held out: {run.extrapolation_factor:.1f} times the largest fitted: predicted {run.predicted:.5f}, measured "
        f"{run.loss:.5f} ({run.relative_error:+.2%}{of_excess})"
    )
