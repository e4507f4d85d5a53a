"""Any table of runs becomes a RunTable (contract 4): positive finite N, D and loss, and a reason for each excluded row.

A table is a CSV, a parquet file, JSON lines, a sweep folder of `row.json` files, or a data frame. A user's mistake
raises InputError; a run that died or lost to the baseline is excluded and listed. `checks` says whether a law may be
fitted to the rest.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from doors.address import shown
from scaling.errors import InputError
from scaling.laws.registry import Law
from scaling.table.columns import Columns, columns_from, flag, numbered, numbers, resolve, row_ids
from scaling.table.files import load, to_polars
from scaling.table.rules import Excluded, Exclusions, by_rule
from scaling.table.usual import from_wandb, recognised

FLOPS_PER_ND = 6.0
"""C / (N D) of a table without C: two FLOPs a parameter in the forward pass, four in the backward (2001.08361, 2.1)."""
FLOPS_SPREAD_WARNED = 0.1
LEAST_D_PER_N, MOST_D_PER_N = 1e-6, 1e8
"""Outside these ratios D and N cannot be counted in the same unit."""
USUAL_D_PER_N = (1e-3, 1e5)
"""A median ratio outside these makes one ask for the unit."""
LEAST_N = 1e3
"""If every N is below this, N may be counted in millions or billions."""
NUMBERS = ("n", "d", "unique", "density", "loss", "metric")
"""The fields of RunTable that are fitted."""
_FIELD = {"n": "n", "d": "d", "u": "unique", "s": "density", "l": "loss"}
"""{axis of a law: its field in RunTable and in Columns}."""


@dataclass(frozen=True)
class RunTable:
    """The R rows that a law may be fitted to, and the excluded rows with the reason."""

    source: str
    columns: Columns
    frame: pl.DataFrame
    """The R kept rows with all columns, in the table's order."""
    left_out: pl.DataFrame
    """The excluded rows with all columns."""
    row_id: tuple[str, ...]
    loss: np.ndarray | None
    """[R], in the table's unit (nats). This field and the next five are empty where no column is named."""
    metric: np.ndarray | None
    """[R], above 0 and below 1."""
    d: np.ndarray | None
    """[R]."""
    n: np.ndarray | None
    """[R]."""
    unique: np.ndarray | None
    """[R], the distinct data within D. It is at most D, because a run may stop before the end of its first epoch."""
    density: np.ndarray | None
    """[R], the part of the parameters that are not zero, or active; at most 1."""
    cluster: np.ndarray
    """[R] integers, a different one for each row where no cluster column is named."""
    flops_per_nd: float
    """C / (N D): the median over all rows, or FLOPS_PER_ND where no FLOPs are named."""
    known_floor: float | None
    excluded: tuple[Excluded, ...]
    """The rows of `left_out` in its order, then the runs that have no row."""
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    """Sentences on what was recognised in the table without being named."""
    drop_worst: int
    """The number of rows of highest loss that were excluded on request."""

    def __len__(self) -> int:
        return len(self.row_id)

    def points(self, law: Law) -> dict[str, np.ndarray]:
        """Returns {axis of the law: [R]}. Raises InputError for an axis that has no column."""
        return {axis: self.need(_FIELD[axis], f"the law {law.name} ({law.formula})") for axis in law.axes}

    def response(self, law: Law) -> np.ndarray:
        """Returns the values [R] that the law describes: the metric, or the loss, or 1 - metric where no loss is named.

        Raises InputError where its column is not named.
        """
        if law.response == "loss" and self.loss is not None:
            return self.loss
        metric = self.need("metric", f"the law {law.name} ({law.formula})")
        return metric if law.response == "metric" else 1 - metric

    def need(self, field: str, needed_by: str = "this") -> np.ndarray:
        """Returns the field "n", "d", "unique", "loss" or "metric", [R]. Raises InputError where it has no column."""
        values = getattr(self, field)
        if values is None:
            what = field.upper() if field in ("n", "d") else f"the {field} column"
            raise InputError(f"{needed_by} needs {what}; name its column with {flag(field)}")
        return values

    def take(self, keep: np.ndarray) -> RunTable:
        """Returns the table of the rows where the boolean [R] `keep` is true."""
        return self._at(np.flatnonzero(keep))

    def in_order(self) -> RunTable:
        """Returns the same rows in an order that only their numbers and clusters give, not their order in the file.

        Clusters are numbered in this order too, so a bootstrap of the result draws the same runs from any file.
        """
        _, rank_R = np.unique(self._numbers(), axis=0, return_inverse=True)
        ranks: dict[int, list[int]] = {}
        for row in np.argsort(rank_R, kind="stable").tolist():
            ranks.setdefault(int(self.cluster[row]), []).append(int(rank_R[row]))
        place = {cluster: i for i, cluster in enumerate(sorted(ranks, key=ranks.__getitem__))}
        cluster_R = np.array([place[cluster] for cluster in self.cluster.tolist()], int)
        return dataclasses.replace(self, cluster=cluster_R)._at(np.lexsort((rank_R, cluster_R)))

    def _at(self, rows: np.ndarray) -> RunTable:
        fields = ("loss", "metric", "d", "n", "unique", "density", "cluster")
        arrays = {name: getattr(self, name) for name in fields}
        return dataclasses.replace(
            self,
            frame=self.frame[rows],
            row_id=tuple(np.asarray(self.row_id, object)[rows]),
            **{name: None if values is None else values[rows] for name, values in arrays.items()},
        )

    def _numbers(self) -> np.ndarray:
        """Returns the fitted numbers of each row, [R, columns]."""
        values = (getattr(self, name) for name in NUMBERS)
        return np.stack([column for column in values if column is not None], axis=1)

    def with_worst(self) -> RunTable | None:
        """Returns the table with the rows that --drop-worst excluded, in order; None where it excluded no row."""
        if not self.drop_worst:
            return None
        return from_frame(pl.concat([self.frame, self.left_out]), self.columns, source=self.source).in_order()

    def excluded_by_rule(self) -> dict[str, int]:
        return by_rule(self.excluded)

    def data_hash(self) -> str:
        """Returns the SHA-256 of the fitted numbers and their names; the order of the rows does not matter."""
        named = [name for name in NUMBERS if getattr(self, name) is not None]
        rows = self._numbers()
        return hashlib.sha256(" ".join(named).encode() + rows[np.lexsort(rows.T)].tobytes()).hexdigest()


def read(table: Any, columns: Columns | None = None, *, drop_worst: int = 0, **names: Any) -> RunTable:
    """Reads and validates a table of runs.

    Args:
      table: the path of a .csv, .parquet, .jsonl or .ndjson file or of a folder with runs/*/row.json or */row.json;
        or a Polars or pandas frame, or a list of dicts with one run each.
      columns: the names of the table's columns. Usual names, such as params, tokens and loss, are recognised.
      drop_worst: how many rows of highest loss (lowest metric) are excluded, after all other rules.
      **names: fields of Columns, as in `read(frame, n="params", d="tokens", loss="loss")`. They win over `columns`.

    Raises:
      InputError: file or column missing, text in a number column, N, D or loss that is not finite and above 0, a metric
        that is not between 0 and 1, a D that cannot be in the unit of N, no rows.
    """
    columns = columns_from(names, columns or Columns())
    if not isinstance(table, str | Path):
        return from_frame(to_polars(table), columns, drop_worst)
    frame, unfinished = load(table)
    return from_frame(frame, columns, drop_worst, source=shown(table), unfinished=unfinished)


def from_frame(
    frame: pl.DataFrame,
    columns: Columns,
    drop_worst: int = 0,
    source: str = "table",
    unfinished: tuple[Excluded, ...] = (),
    defaults: Columns = Columns(),  # noqa: B008
) -> RunTable:
    """Does what `read` does, for a Polars frame.

    Args:
      frame: the table.
      columns: the names of its columns.
      drop_worst: as for `read`.
      source: the table's name in messages.
      unfinished: runs that have no row, to be listed among the excluded ones.
      defaults: names that are taken for fields that `columns` leaves open, as far as the frame has them. Its `recipe`
        is added to that of `columns`.
    """
    if frame.is_empty():
        raise InputError(f"{source} has no rows; a fit needs one row a run")
    if drop_worst < 0:
        raise InputError(f"--drop-worst is {drop_worst}; wanted 0 or more rows")
    frame, of_wandb = from_wandb(frame)
    columns, of_names = recognised(columns, frame.columns)
    columns = resolve(frame, columns, defaults, source)
    row_id = row_ids(frame, columns)
    rules = Exclusions(frame, columns, row_id, drop_worst)
    n, d, unique = (_counts(rules, getattr(columns, name)) for name in ("n", "d", "unique"))
    given = _counts(rules, columns.n_from_flops)
    if given is not None and d is not None:
        n = given / (FLOPS_PER_ND * d)
    flops = _counts(rules, columns.flops, missing=d is not None)
    flops_per_nd, warnings = FLOPS_PER_ND, ()
    if flops is not None and n is not None:
        if d is None:
            d = flops / (FLOPS_PER_ND * n)
        else:
            flops_per_nd, warnings = _flops_per_nd(flops / (n * d), columns)
    warnings = (*warnings, *_units(n, d, columns, row_id))
    table = RunTable(
        source=source,
        columns=columns,
        frame=frame,
        left_out=frame.filter(~rules.keep),
        row_id=tuple(row_id),
        loss=rules.loss,
        metric=rules.metric,
        d=d,
        n=n,
        unique=None if unique is None or d is None else np.minimum(unique, d),
        density=_density(rules, columns),
        cluster=_clusters(rules, columns),
        flops_per_nd=flops_per_nd,
        known_floor=_known_floor(rules, columns),
        excluded=rules.excluded + unfinished,
        warnings=(),
        notes=of_wandb + of_names,
        drop_worst=drop_worst,
    ).take(rules.keep)
    return dataclasses.replace(table, warnings=(*warnings, *_unknown_progress(table), *_repeats(table)))


def _counts(rules: Exclusions, name: str | None, missing: bool = False) -> np.ndarray | None:
    """Returns a column [all rows], with NaN where a row is excluded."""
    if name is None:
        return None
    values = rules.numbers(name)
    rules.positive(name, values, missing)
    return np.where(rules.keep, values, np.nan)


def _density(rules: Exclusions, columns: Columns) -> np.ndarray | None:
    density = _counts(rules, columns.density)
    if density is not None and np.nanmax(density, initial=0.0) > 1:
        raise InputError(
            f"column {columns.density!r} (--density) goes up to {np.nanmax(density):g}; wanted the part of the "
            "parameters that are not zero or active, above 0 and at most 1. Of experts: the active ones over all."
        )
    return density


def _flops_per_nd(ratio: np.ndarray, columns: Columns) -> tuple[float, tuple[str, ...]]:
    ratio = ratio[np.isfinite(ratio)]
    if not len(ratio):
        return FLOPS_PER_ND, ()
    middle = float(np.median(ratio))
    if np.ptp(ratio) <= FLOPS_SPREAD_WARNED * middle:
        return middle, ()
    return middle, (
        f"{columns.flops} / (N D) runs from {ratio.min():.3g} to {ratio.max():.3g}; its median {middle:.3g} turns N "
        "and D into FLOPs. It is steady where N counts the parameters that every example passes (no item tables) and "
        "D all examples, epochs included.",
    )


def _units(n: np.ndarray | None, d: np.ndarray | None, columns: Columns, row_id: list[str]) -> tuple[str, ...]:
    """Returns warnings about the units of N and D. Raises InputError where they cannot both be counted in ones."""
    if n is None or d is None or not np.isfinite(n * d).any():
        return ()
    ratio = d / n
    for bad, what, cure in (
        (ratio < LEAST_D_PER_N, "so little data for its size", "Is D in millions or billions, and N not?"),
        (ratio > MOST_D_PER_N, "so much data for its size", "Is N in thousands, millions or billions, and D not?"),
        (n < 1, "less than one parameter", "Is N in millions or billions?"),
    ):
        if bad.any():
            at = int(np.argmax(bad))
            raise InputError(
                f"D is {d[at]:g} ({columns.d or columns.flops}) and N {n[at]:g} ({columns.n}) in {row_id[at]}: no run "
                f"has {what}. {cure} Count both in ones."
            )
    low, high = USUAL_D_PER_N
    middle = float(np.nanmedian(ratio))
    if np.nanmax(n) < LEAST_N:
        return (f"N is at most {np.nanmax(n):g}: if it is counted in millions or billions, count it in ones.",)
    if not low <= middle <= high:
        which = "D" if middle < low else "N"
        return (f"D / N is {middle:.2g} in the middle of the runs: if {which} is in millions, count it in ones.",)
    return ()


def _clusters(rules: Exclusions, columns: Columns) -> np.ndarray:
    if columns.cluster is None:
        return np.arange(len(rules.keep))
    names = rules.frame[columns.cluster].to_list()
    empty = rules.keep & np.array([name is None or name != name for name in names])
    if empty.any():
        raise InputError(
            f"column {columns.cluster!r} (--cluster) is empty in {rules.row_id[int(np.argmax(empty))]}; give each row "
            "its cluster"
        )
    return numbered(map(repr, names))


def _known_floor(rules: Exclusions, columns: Columns) -> float | None:
    if columns.floor_column is None or not rules.keep.any():
        return None
    floor = rules.numbers(columns.floor_column)
    if np.isnan(floor[rules.keep]).all():
        return None  # a column of every sweep, empty where the truth is not known
    rules.positive(columns.floor_column, floor)
    floor = floor[rules.keep]
    if np.ptp(floor) > 1e-9 * floor[0]:
        raise InputError(
            f"column {columns.floor_column!r} runs from {floor.min():.9g} to {floor.max():.9g}; a law has one floor. "
            "Fit the rows of one data set at a time."
        )
    return float(floor.min())


def _unknown_progress(table: RunTable) -> tuple[str, ...]:
    name = table.columns.progress
    unknown = 0 if name is None else int(np.isnan(numbers(table.frame, name, table.row_id)).sum())
    return (f"{unknown} rows have no {name}: it is not known if their schedule ended.",) if unknown else ()


def _repeats(table: RunTable) -> tuple[str, ...]:
    axes = ("d", "n", "unique", "density")
    parts = {name: getattr(table, name) for name in axes if getattr(table, name) is not None}
    if table.columns.cluster is not None or not parts:
        return ()
    if table.columns.seed_column is not None:
        parts["seed"] = [repr(seed) for seed in table.frame[table.columns.seed_column]]
    repeated = int(pl.DataFrame(parts).is_duplicated().sum())
    what = " and ".join(name.upper() if len(name) == 1 else name for name in parts)
    if not repeated:
        return ()
    return (
        f"{repeated} rows share {what} with another row. If they are checkpoints of one run, "
        "name the run with --cluster: else every interval is too narrow.",
    )
