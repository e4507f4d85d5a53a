"""Freeze a prediction before its run is made, and check later which forecasts held.

    sessionrec forecast fit.json --n 3e8 --d 6e9 --out forecasts.jsonl
    sessionrec forecast check forecasts.jsonl SWEEP

A forecast is a line with its date, the law, the hash of the fitted data and the band. It is refused where the table of
the fit already has a run at that point. A run belongs to a forecast if it is within 1 % of it on every axis; several
runs at a point count once, by their mean.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

import tyro

import scaling
from doors import bounds
from doors.files import STDOUT, check_outputs
from doors.terminal import Terminal
from experiments.cli.columns import table_of
from experiments.cli.fit_options import asked_in
from experiments.cli.parsing import JsonFile, parse_flags
from experiments.cli.points import PointFlags, points_of
from experiments.cli.show_forecast import show_judged, show_predictions
from scaling.fitting.export import plain, write_json
from scaling.forecasts.frozen import keep, predict, read, refuse_made
from scaling.forecasts.judged import calibration, judge
from scaling.table.files import load


@dataclass(frozen=True, kw_only=True)
class Freeze(PointFlags):
    fit: tyro.conf.Positional[Path]
    """The file that `sessionrec fit ... --json` wrote, or the word check, which has flags of its own."""
    out: Path
    """The forecasts are added to this file, *.jsonl, which is made where it does not exist."""
    table: Path | None = None
    """The table of runs, if it is no longer at the path that the fit names."""


@dataclass(frozen=True, kw_only=True)
class Check:
    forecasts: tyro.conf.Positional[Path]
    """The file that `sessionrec forecast ... --out` wrote."""
    table: tyro.conf.Positional[Path]
    """The runs made since: a sweep folder, or a file .csv, .parquet or .jsonl with the columns of the fit."""
    json: JsonFile = None
    """Write everything to this file."""


def main(argv: list[str]) -> int:
    if argv[:1] == ["check"]:
        return _check(parse_flags(Check, argv[1:], prog="sessionrec forecast check", description=__doc__))
    return _freeze(parse_flags(Freeze, argv, prog="sessionrec forecast", description=__doc__))


def _freeze(args: Freeze) -> int:
    bounds.check(args)
    check_outputs(args.out, inputs=[args.fit, args.table])
    forecasts = predict(args.fit, points_of(args), datetime.datetime.now(datetime.UTC))
    source, flags, _ = asked_in(args.fit, args.table)
    refuse_made(forecasts, _runs(source, flags.columns))
    keep(forecasts, args.out)
    show_predictions(forecasts, Terminal())
    return 0


def _check(args: Check) -> int:
    check_outputs(args.json, inputs=[args.forecasts, args.table])
    judged = [judge(one, _runs(args.table, scaling.Columns(**one.columns))) for one in read(args.forecasts)]
    if args.json is not None:
        write_json(plain({"forecasts": judged, "calibration": calibration(judged)}), args.json)
    if args.json != STDOUT:
        show_judged(judged, Terminal())
    return 0


def _runs(source: Path, columns: scaling.Columns) -> scaling.RunTable:
    frame, unfinished = load(source)
    return table_of(source, frame, columns, unfinished)
