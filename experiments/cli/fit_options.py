"""The one function that answers for `sessionrec fit` and `report`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import scaling
from doors import bounds
from doors.address import address_of
from experiments.cli.columns import columns_of, completed, laws_of, named_by, table_of
from experiments.cli.fit_flags import FitFlags
from experiments.cli.output import fit_progress
from scaling.errors import InputError, Refusal
from scaling.fitting.lead import lead_first
from scaling.laws.registry import by_name
from scaling.table import run_table

IN_MEMORY = "table"
"""The source of a fit whose table was a frame."""


class Answered(NamedTuple):
    table: scaling.RunTable
    fits: list[tuple[str, scaling.Fit | Refusal]]
    """(law's name, its fit or the reason for the refusal); the first is the answer."""


class Asked(NamedTuple):
    """The laws to fit, before anything is computed."""

    table: scaling.RunTable
    laws: list[str | None]
    """None: the default law of the table."""
    options: dict[str, Any]
    """Arguments of `scaling.fit`."""


def asked(source: Path, flags: FitFlags, *, all_columns_named: bool = False) -> Asked:
    """Reads the table and finds the laws that the flags, report.json or the table ask for.

    Args:
      source: a table or a sweep folder.
      flags: the options of the fit.
      all_columns_named: the columns are those of a finished fit: nothing is added to them.

    Raises InputError where a column, an option or one of the laws is wrong.
    """
    bounds.check(flags)
    if flags.floor is not None and flags.columns.floor_column is not None and not all_columns_named:
        raise InputError("--floor and --floor-column both name the floor; give one")
    options = {
        "objective": flags.objective,
        "delta": delta_of(flags.delta),
        "floor": flags.floor,
        "fix": _fixed(flags.fix),
        "bootstrap": flags.bootstrap,
        "seed": flags.seed,
    }
    frame, unfinished = run_table.load(source)
    named = named_by(flags.columns, flags.law)
    if not all_columns_named:
        named = completed(named, source, frame.columns)
    runs = table_of(source, frame, columns_of(named), unfinished, drop_worst=flags.drop_worst)
    laws: list[str | None] = [*laws_of(named)] or [None]
    for law in laws:
        if law is not None and law != scaling.BEST:
            runs.points(by_name(law))
            runs.response(by_name(law))
    return Asked(runs, laws, options)


def answer(source: Path, flags: FitFlags, *, all_columns_named: bool = False) -> Answered:
    """Fits the laws that `asked` finds. Raises what `asked` raises, before anything is computed."""
    runs, laws, options = asked(source, flags, all_columns_named=all_columns_named)
    with fit_progress():
        fits = [_fit(runs, law, options, is_alone=len(laws) == 1) for law in laws]
    return Answered(runs, lead_first(fits))


def _fit(
    runs: scaling.RunTable, law: str | None, options: dict[str, Any], is_alone: bool
) -> tuple[str, scaling.Fit | Refusal]:
    if not is_alone and law not in (None, scaling.BEST) and not by_name(law).has_floor:
        options = options | {"floor": None}  # the floor is that of the other laws
    try:
        found = scaling.fit(runs, law, **options)
    except Refusal as refusal:
        return law or scaling.default_law(runs), refusal
    return found.law.name, found


def asked_in(path: Path, table: Path | None) -> tuple[Path, FitFlags, str]:
    """Returns the table, the flags and the hash of the data of a finished fit.

    Args:
      path: the fit.json.
      table: the table, in place of the one that the file names.

    Raises InputError where the file or its table is missing or damaged.
    """
    scaling.load(path)  # names what is damaged
    stored = json.loads(path.read_text())
    try:
        asked, columns = dict(stored["asked"]), scaling.Columns(**stored["columns"])
        flags = FitFlags(
            law=asked["law"],
            objective=asked["objective"],
            delta=str(asked["delta"]),
            drop_worst=int(stored["drop_worst"]),
            floor=asked["floor"],
            fix=tuple(f"{name}={value!r}" for name, value in asked["fix"].items()),
            bootstrap=int(stored["bootstrap"]["draws"]),
            seed=int(stored["seed"]),
            columns=columns,
        )
        source, data_hash = str(stored["source"]), str(stored["data_hash"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} does not say how it was fitted ({error!r}); fit again with --json") from error
    if table is None and source == IN_MEMORY and not Path(source).exists():
        raise InputError(f"{path} was fitted to a table in memory; name a file with the same table too")
    places = (Path(source), path.parent / Path(source).name)
    found = table or next((at for at in places if at.exists() or address_of(source)), None)
    if found is None:
        raise InputError(f"{path} was fitted to {source}, which is not there; name the table too")
    return found, flags, data_hash


def delta_of(text: str) -> float | str:
    """Returns --delta as `scaling.fit` takes it. Raises InputError where it is neither auto nor a number."""
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"--delta is {text!r}; expected auto or a number in nats of log loss, such as 1e-3") from error


def _fixed(texts: tuple[str, ...]) -> dict[str, float]:
    try:
        pairs = [part.split("=") for text in texts for part in text.split(",")]
        return {name.strip(): float(value) for name, value in pairs}
    except ValueError as error:
        raise InputError(f"--fix is {' '.join(texts)!r}; expected NAME=NUMBER, such as alpha=0.35") from error
