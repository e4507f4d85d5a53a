"""Predict the loss of one run with a fitted law: the value, the law's band, and the band of a single run.

sessionrec predict fit.json --n 3e8 --d 6e9
sessionrec predict fit.json --d 1e9 4e9 16e9
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

import tyro

from doors import bounds
from doors.terminal import Terminal
from experiments.cli.parsing import parse_flags
from experiments.cli.points import PointFlags, points_of
from experiments.cli.show_forecast import show_predictions
from scaling.forecasts.frozen import predict


@dataclass(frozen=True, kw_only=True)
class Args(PointFlags):
    fit: tyro.conf.Positional[Path]
    """The file that `sessionrec fit ... --json` wrote."""


def main(argv: list[str]) -> int:
    args = parse_flags(Args, argv, prog="sessionrec predict", description=__doc__)
    bounds.check(args)
    show_predictions(predict(args.fit, points_of(args), datetime.datetime.now(datetime.UTC)), Terminal())
    return 0
