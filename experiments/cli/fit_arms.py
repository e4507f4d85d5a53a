"""`sessionrec fit` of several arms: those of one table by a column, or a table each, fitted together and compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import scaling
from doors import bounds
from doors.address import shown
from experiments.cli.columns import columns_of, completed, laws_of, named_by, table_of
from experiments.cli.fit_flags import FitFlags
from experiments.cli.fit_options import delta_of
from experiments.cli.output import fit_progress
from scaling.arms.compare import TABLE, ArmsFit, compare, tables_of
from scaling.arms.multiplier import Versus, versus
from scaling.arms.sentences import sentences
from scaling.errors import InputError
from scaling.fitting.export import plain
from scaling.table.files import load
from scaling.table.rules import Excluded


class Arms(NamedTuple):
    """The tables of the arms, before anything is computed."""

    tables: dict[str, scaling.RunTable]
    by: str
    """The column that makes the arms; TABLE where each has a table of its own."""
    law: str | None
    source: str
    unfinished: tuple[Excluded, ...]
    """The runs of one table that have no row yet: their arm is not known."""

    @property
    def left_out(self) -> dict[str, tuple[Excluded, ...]]:
        """{where: the excluded runs}: in each arm, and those whose arm is not known."""
        found = {f"in {name}": table.excluded for name, table in self.tables.items()}
        return found | {"without an arm": self.unfinished}


def arms_of(sources: Sequence[Path], flags: FitFlags, by: str | None, names: Sequence[str]) -> Arms:
    """Reads the arms of one table, by a column, or of several tables.

    Raises InputError for wrong columns and options, and for options that a fit of arms does not have.
    """
    bounds.check(flags)
    if flags.fix or flags.drop_worst:
        raise InputError("--fix and --drop-worst do not go with --by and several tables; leave them out")
    if flags.floor is not None and flags.columns.floor_column is not None:
        raise InputError("--floor and --floor-column both name the floor; give one")
    if len(sources) > 1 and by is not None:
        raise InputError(f"{len(sources)} tables came, and --by {by}: each table is an arm, or one table has them all")
    if len(sources) == 1 and names:
        raise InputError("--names is for several tables; the arms of --by have the values of their column as names")
    loaded = {source: load(source) for source in sources}
    named = {
        source: completed(named_by(flags.columns, flags.law), source, frame.columns)
        for source, (frame, _) in loaded.items()
    }
    law = next(iter(laws_of(named[sources[0]])), None)
    if law == scaling.BEST or (flags.law is not None and "," in flags.law):
        raise InputError(f"--law is {flags.law}; arms are compared by one law, such as power_floor")
    unfinished: tuple[Excluded, ...] = ()
    if by is None:
        places = dict(zip(_names(sources, names), sources, strict=True))
        rows = {arm: loaded[source] for arm, source in places.items()}
    else:
        frame, unfinished = loaded[sources[0]]
        rows = {arm: (part, ()) for arm, part in tables_of(frame, by, shown(sources[0])).items()}
        places = dict.fromkeys(rows, sources[0])
    tables = {}
    for arm, (frame, without_row) in rows.items():
        source = places[arm]
        label = source if by is None else Path(f"{source} ({by} {arm})")
        tables[arm] = table_of(label, frame, columns_of(named[source]), without_row)
    return Arms(tables, by or TABLE, law, ", ".join(map(shown, sources)), unfinished)


def _names(sources: Sequence[Path], names: Sequence[str]) -> list[str]:
    """Returns the names of tables as arms."""
    if names and len(names) != len(sources):
        raise InputError(f"{len(names)} --names for {len(sources)} tables; give each one")
    found = list(names) or [source.resolve().stem for source in sources]
    if twice := {name for name in found if found.count(name) > 1}:
        raise InputError(f"several tables have the name {sorted(twice)[0]!r}; give each its own by --names")
    return found


def fit_arms(arms: Arms, flags: FitFlags, shared: Sequence[str]) -> tuple[ArmsFit, tuple[Versus, ...]]:
    """Fits and compares the arms. Raises Refusal where an arm cannot carry the law."""
    with fit_progress():
        found = compare(
            arms.tables,
            arms.by,
            arms.law,
            shared=[name for text in shared for name in text.split(",")],
            objective=flags.objective,
            delta=delta_of(flags.delta),
            floor=flags.floor,
            bootstrap=flags.bootstrap,
            seed=flags.seed,
        )
        others = versus(found)
    return found, others


def values(found: ArmsFit, others: Sequence[Versus], arms: Arms) -> dict[str, Any]:
    """Returns everything but the draws, in JSON's types."""
    each = {
        arm.name: {
            "runs": arm.runs,
            "params": arm.params,
            "flops_per_d": arm.flops_per_d,
            "flops_per_nd": arm.fitted.flops_per_nd,
            "smallest": arm.smallest,
            "largest": arm.largest,
            "data_hash": arms.tables[arm.name].data_hash(),
            "excluded": [vars(row) for row in arms.tables[arm.name].excluded],
        }
        for arm in found.arms
    }
    found_values = {
        "sentences": sentences(found, others),
        "by": found.by,
        "law": found.law.name,
        "formula": found.law.formula,
        "shared": found.shared,
        "cost": found.cost,
        "arms": each,
        "equal_exponents": found.equal,
        "versus_first": others,
        "unfinished": [vars(row) for row in arms.unfinished],
        "pairs": {"of_every_arm": found.pairs.paired, "groups": found.pairs.clusters},
        "draws": found.draws,
        "response": found.response,
        "misfits": found.misfits,
        "warnings": found.warnings,
        "source": arms.source,
    }
    return plain(found_values)
