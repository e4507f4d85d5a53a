"""Tests the rates and batches that a law predicts, on Step Law's grids (Li et al. 2025, 2503.04715).

    python benchmarks/rates.py lr_bsz_train.parquet lr_bsz_test.parquet

The law is fitted to the first table and predicts the cells of the second. The first table also predicts itself, one
size after the other from the other sizes. References are the one pair of rate and batch that is best over the fitted
table, and the formula that Step Law's authors published, which they fitted to these runs (batch in tokens; these rows
have 2,048). An error is in log2, a regret is the loss of the run nearest the prediction minus the lowest of the cell.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

import scaling
from scaling.rates.cells import Cell, cells_of
from scaling.rates.fit import minima_of

COLUMNS = {"n": "non_embedding_param_size", "d": "data_size", "loss": "lm_loss"}
TRIED = {"rate": "lr", "batch": "bsz"}
TOKENS_A_ROW = 2048

Rule = Callable[[Cell], np.ndarray]
"""Returns the logs of the rate and the batch for a cell, [2]."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    args = parser.parse_args()
    train, test = (pl.read_parquet(path) for path in (args.train, args.test))
    _show("the second table", [(train, test)])
    sizes = train[COLUMNS["n"]].unique().sort()
    folds = [(train.filter(pl.col(COLUMNS["n"]) != n), train.filter(pl.col(COLUMNS["n"]) == n)) for n in sizes]
    _show("each size from the others", folds)


def _show(title: str, folds: list[tuple[pl.DataFrame, pl.DataFrame]]) -> None:
    """Prints the errors and the regrets of each rule over the cells of all folds."""
    found: dict[str, list[tuple[np.ndarray, float, float]]] = {}
    for fitted, asked in folds:
        cells = _cells(asked)
        minima, _, _ = minima_of(cells)
        best = {(each.cell.n, each.cell.d): each.log_A for each in minima}
        for name, rule in _rules(fitted).items():
            for cell in cells:
                at_A = rule(cell)
                error_A = (at_A - best[cell.n, cell.d]) / np.log(2)
                found.setdefault(name, []).append((error_A, *_regret(cell, at_A)))
    print(f"\n{title}: {len(next(iter(found.values())))} cells")
    print(f"{'':16}{'error of rate':>26}{'error of batch':>26}{'regret / loss, %':>26}{'mean, nats':>14}")
    for name, results in found.items():
        errors = np.abs([error_A for error_A, _, _ in results])
        regret, share = (np.array(values) for values in list(zip(*results, strict=True))[1:])
        print(
            f"{name:16}{_quantiles(errors[:, 0])}{_quantiles(errors[:, 1])}{_quantiles(100 * share)}"
            f"{np.mean(regret):14.4f}"
        )
    print("each: median, 90 %, largest; errors in log2")


def _cells(frame: pl.DataFrame) -> list[Cell]:
    return cells_of(scaling.read(frame, **COLUMNS), TRIED["rate"], TRIED["batch"])


def _rules(fitted: pl.DataFrame) -> dict[str, Rule]:
    laws = scaling.fit_rates(fitted, **TRIED, **COLUMNS, bootstrap=0)
    return {
        "law": lambda cell: np.log([value for value, _, _ in laws.predict(cell.n, cell.d).values()]),
        "constant best": _constant(_cells(fitted)),
        "Step Law": lambda cell: np.log([1.79 * cell.n**-0.713 * cell.d**0.307, 0.58 * cell.d**0.571 / TOKENS_A_ROW]),
    }


def _constant(cells: list[Cell]) -> Rule:
    """Returns the tried pair with the lowest mean regret over the cells."""
    tried = np.unique(np.concatenate([cell.log_RA for cell in cells]).round(2), axis=0)
    best_A = min(tried, key=lambda at_A: np.mean([_regret(cell, at_A)[1] for cell in cells]))
    return lambda cell: best_A


def _regret(cell: Cell, at_A: np.ndarray) -> tuple[float, float]:
    """Returns the regret in nats and as a part of the lowest loss."""
    nearest = int(np.argmin(((cell.log_RA - at_A) ** 2).sum(axis=1)))
    share = float(np.expm1(cell.log_loss_R[nearest] - cell.log_loss_R.min()))
    return share * float(np.exp(cell.log_loss_R.min())), share


def _quantiles(values: np.ndarray) -> str:
    values = values[np.isfinite(values)]
    return "".join(f"{value:8.3f}" for value in (*np.quantile(values, [0.5, 0.9]), values.max())).rjust(26)


if __name__ == "__main__":
    main()
