"""`sessionrec fit TABLE --by COLUMN`: the arms of a table, fitted together and compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import scaling
from doors import bounds
from experiments.cli.columns import columns_of, completed, laws_of, named_by, table_of
from experiments.cli.fit_flags import FitFlags
from experiments.cli.fit_options import delta_of
from experiments.cli.output import fit_progress
from scaling.arms.compare import ArmsFit, compare, tables_of
from scaling.arms.multiplier import Versus, versus
from scaling.arms.sentences import sentences
from scaling.errors import InputError
from scaling.fitting.export import plain, write_json
from scaling.table.files import load


def fit_arms(
    source: Path, flags: FitFlags, by: str, shared: tuple[str, ...], json: Path | None
) -> tuple[ArmsFit, tuple[Versus, ...]]:
    """Fits and compares the arms, and writes everything to `json`.

    Raises InputError for wrong columns and options, and for options that a fit of arms does not have; Refusal where an
    arm cannot carry the law.
    """
    bounds.check(flags)
    if flags.fix or flags.drop_worst:
        raise InputError("--fix and --drop-worst do not go with --by; leave them out")
    if flags.floor is not None and flags.columns.floor_column is not None:
        raise InputError("--floor and --floor-column both name the floor; give one")
    frame, _ = load(source)
    named = completed(named_by(flags.columns, flags.law), source, frame.columns)
    law = next(iter(laws_of(named)), None)
    if law == scaling.BEST or (flags.law is not None and "," in flags.law):
        raise InputError(f"--law is {flags.law}; arms are compared by one law, such as power_floor")
    columns = columns_of(named)
    tables = {
        arm: table_of(Path(f"{source} ({by} {arm})"), rows, columns, ())
        for arm, rows in tables_of(frame, by, str(source)).items()
    }
    with fit_progress():
        found = compare(
            tables,
            by,
            law,
            shared=[name for text in shared for name in text.split(",")],
            objective=flags.objective,
            delta=delta_of(flags.delta),
            floor=flags.floor,
            bootstrap=flags.bootstrap,
            seed=flags.seed,
        )
        others = versus(found)
    if json is not None:
        write_json(_values(found, others, tables, str(source)), json)
    return found, others


def _values(
    found: ArmsFit, others: tuple[Versus, ...], tables: dict[str, scaling.RunTable], source: str
) -> dict[str, Any]:
    """Returns everything but the draws, in JSON's types."""
    arms = {
        arm.name: {
            "runs": arm.runs,
            "params": arm.params,
            "flops_per_d": arm.flops_per_d,
            "flops_per_nd": arm.fitted.flops_per_nd,
            "smallest": arm.smallest,
            "largest": arm.largest,
            "data_hash": tables[arm.name].data_hash(),
            "excluded": [vars(row) for row in tables[arm.name].excluded],
        }
        for arm in found.arms
    }
    values = {
        "sentences": sentences(found, others),
        "by": found.by,
        "law": found.law.name,
        "formula": found.law.formula,
        "shared": found.shared,
        "cost": found.cost,
        "arms": arms,
        "equal_exponents": found.equal,
        "versus_first": others,
        "pairs": {"of_every_arm": found.pairs.paired, "groups": found.pairs.clusters},
        "draws": found.draws,
        "response": found.response,
        "misfits": found.misfits,
        "warnings": found.warnings,
        "source": source,
    }
    return plain(values)
