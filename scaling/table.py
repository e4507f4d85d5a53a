"""Contract 4: any table of runs becomes a RunTable: positive finite N, D and loss, and a reason for every row left out.

A table is a CSV, a parquet file, JSON lines, or a sweep folder of `row.json` files. What a user must put right raises
InputError; what a run cannot help (it died, it lost to the baseline) is excluded and listed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from scaling.errors import InputError, near_miss

_READERS: dict[str, Callable[[Path], pl.DataFrame]] = {
    ".csv": lambda path: pl.read_csv(path, infer_schema_length=None, null_values=[""]),
    ".parquet": pl.read_parquet,
    ".jsonl": lambda path: pl.read_ndjson(path, infer_schema_length=None),
    ".ndjson": lambda path: pl.read_ndjson(path, infer_schema_length=None),
}


@dataclass(frozen=True)
class Columns:
    """What the columns of a table are called. Only `loss` and one of `d` and `flops` must be there."""

    loss: str
    d: str | None = None
    """Data: sessions, tokens or whatever the law counts."""
    n: str | None = None
    """Parameters."""
    flops: str | None = None
    """Training FLOPs C of a table without D: D = C / (6 N)."""
    baseline: str | None = None
    """Loss of a trivial predictor on the same data; runs that do not beat it are excluded."""
    floor: str | None = None
    """The known irreducible loss: one number, repeated in every row."""
    cluster: str | None = None
    """Rows of one cluster are not independent: the bootstrap draws them together."""
    run_id: str | None = None
    """Names a row in messages. Default: `run_id` where the table has it, else the row's number."""
    seed: str | None = None
    """Default: `seed` where the table has it."""
    select_by: str | None = None
    """Tuned runs: of each cell of `select_within` only the row with the lowest value of this column stays."""
    select_within: tuple[str, ...] = ()


@dataclass(frozen=True)
class Excluded:
    """A row that no fit sees: which, by which rule, and the particulars."""

    row: str
    rule: str
    reason: str


@dataclass(frozen=True)
class RunTable:
    """Rows that a law may be fitted to, and those it may not, with the reason."""

    source: str
    columns: Columns
    frame: pl.DataFrame
    """All R kept rows with all columns, in the table's order."""
    left_out: pl.DataFrame
    """The rows that were excluded, likewise."""
    row_id: tuple[str, ...]
    loss: np.ndarray
    """[R], in the table's unit (nats)."""
    d: np.ndarray
    """[R]."""
    n: np.ndarray | None
    """[R], or None where no column was named."""
    cluster: np.ndarray
    """[R] integers; one a row where no cluster column was named."""
    known_floor: float | None
    excluded: tuple[Excluded, ...]
    warnings: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.loss)

    def take(self, keep: np.ndarray) -> RunTable:
        """The table of the rows where the boolean [R] `keep` holds."""
        return dataclasses.replace(
            self,
            frame=self.frame.filter(keep),
            row_id=tuple(np.asarray(self.row_id, object)[keep]),
            loss=self.loss[keep],
            d=self.d[keep],
            n=None if self.n is None else self.n[keep],
            cluster=self.cluster[keep],
        )

    metric = unique = None
    flops_per_nd = 6.0

    def points(self, law):
        return {axis: getattr(self, axis) for axis in law.axes}

    def response(self, law):
        return self.loss

    def excluded_by_rule(self) -> dict[str, int]:
        return dict(Counter(row.rule for row in self.excluded))

    def data_hash(self) -> str:
        """SHA-256 of the fitted numbers, whatever the order of the rows."""
        n = np.zeros_like(self.d) if self.n is None else self.n
        rows = np.stack([n, self.d, self.loss], axis=1)
        return hashlib.sha256(rows[np.lexsort(rows.T)].tobytes()).hexdigest()


def read(path: str | Path, columns: Columns, drop_worst: int = 0) -> RunTable:
    """Reads and validates a table of runs.

    Args:
      path: .csv, .parquet, .jsonl or .ndjson file, or a folder with runs/*/row.json or */row.json.
      columns: what is called how.
      drop_worst: exclude that many rows of highest loss, after all other rules.

    Raises:
      InputError: file or column missing, text in a number column, non-positive or infinite N, D or loss, no rows.
    """
    frame, unfinished = load(path)
    return from_frame(frame, columns, drop_worst, source=str(path), unfinished=unfinished)


def from_frame(
    frame: pl.DataFrame,
    columns: Columns,
    drop_worst: int = 0,
    source: str = "table",
    unfinished: tuple[Excluded, ...] = (),
) -> RunTable:
    """`read` for a table that is in memory already."""
    if frame.is_empty():
        raise InputError(f"{source} has no rows; a fit needs one row a run")
    columns = _check_columns(frame, columns, source)
    if drop_worst < 0:
        raise InputError(f"--drop-worst is {drop_worst}; wanted 0 or more rows")
    row_id = _row_ids(frame, columns)
    rules = _Rules(frame, columns, row_id, drop_worst)
    rules.apply()
    return _finish(frame, columns, row_id, rules, source, unfinished)


def load(path: str | Path) -> tuple[pl.DataFrame, tuple[Excluded, ...]]:
    """The table as it stands, and the runs of a sweep folder that have no row yet. Raises InputError."""
    path = Path(path)
    if path.is_dir():
        return _load_folder(path)
    if not path.exists():
        siblings = [p.name for p in path.parent.iterdir() if p.suffix in _READERS] if path.parent.is_dir() else []
        hint = near_miss(path.name, siblings) if siblings else f"there is no table in {path.parent.resolve()} either"
        raise InputError(f"no file or folder {path}; {hint}")
    if path.suffix not in _READERS:
        raise InputError(f"{path} ends in {path.suffix!r}; wanted {', '.join(_READERS)}, or a sweep folder")
    try:
        return _READERS[path.suffix](path), ()
    except pl.exceptions.NoDataError as error:
        raise InputError(f"{path} is empty; a fit needs one row a run") from error
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path} cannot be read as {path.suffix[1:]}: {error}") from error


def _load_folder(folder: Path) -> tuple[pl.DataFrame, tuple[Excluded, ...]]:
    runs = folder / "runs" if (folder / "runs").is_dir() else folder
    files = sorted(runs.glob("*/row.json"))
    if not files:
        raise InputError(f"{folder} holds no runs/*/row.json and no */row.json; give a sweep folder or a table file")
    rows = []
    for file in files:
        try:
            row = json.loads(file.read_text())
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{file} is not valid JSON ({error}); remove the folder and run it again") from error
        if not isinstance(row, dict):
            raise InputError(f"{file} holds a {type(row).__name__}; wanted one JSON object, a run's row")
        rows.append({name: json.dumps(v) if isinstance(v, dict | list) else v for name, v in row.items()})
    unfinished = tuple(
        Excluded(config.parent.name, "not done", "it has a config.json but no row.json: under way, or died")
        for config in sorted(runs.glob("*/config.json"))
        if not (config.parent / "row.json").exists()
    )
    names = list(dict.fromkeys(name for row in rows for name in row))
    series = [pl.Series(name, [row.get(name) for row in rows], strict=False) for name in names]
    return pl.DataFrame(series), unfinished


def _check_columns(frame: pl.DataFrame, columns: Columns, source: str) -> Columns:
    named = {
        f"--{field.name.replace('_', '-')}": getattr(columns, field.name)
        for field in dataclasses.fields(columns)
        if isinstance(getattr(columns, field.name), str)
    }
    named |= {f"--select-within {name}": name for name in columns.select_within}
    for flag, name in named.items():
        if name not in frame.columns:
            raise InputError(f"{source} has no column {name!r} ({flag}); {near_miss(name, frame.columns)}")
    if (columns.d is None) == (columns.flops is None):
        raise InputError("name the data column with --d, or the training FLOPs with --d-from-flops, and not both")
    if columns.flops is not None and columns.n is None:
        raise InputError("--d-from-flops computes D = C / (6 N) and so needs --n")
    if (columns.select_by is None) != (not columns.select_within):
        raise InputError("--select-by and --select-within go together: what is tuned, and within which cells")
    defaults = {name: name for name in ("run_id", "seed") if name in frame.columns and getattr(columns, name) is None}
    return dataclasses.replace(columns, **defaults)


def _row_ids(frame: pl.DataFrame, columns: Columns) -> list[str]:
    if columns.run_id is None:
        return [f"row {i + 1}" for i in range(len(frame))]
    return [f"row {i + 1}" if name is None else str(name) for i, name in enumerate(frame[columns.run_id])]


def _numbers(frame: pl.DataFrame, name: str, row_id: list[str]) -> np.ndarray:
    """[R] float64, null as NaN. Raises InputError on text, with the row and the value."""
    values = frame[name].cast(pl.Float64, strict=False) if frame[name].dtype != pl.Boolean else None
    bad = frame[name].is_not_null() if values is None else values.is_null() & frame[name].is_not_null()
    if bad.any():
        at = bad.arg_max()
        raise InputError(f"column {name!r} wants numbers; {row_id[at]} has {frame[name][at]!r}")
    return values.fill_null(np.nan).to_numpy().astype(np.float64)


class _Rules:
    """Applies the exclusion rules in order; `keep` [R] is what is left after them."""

    def __init__(self, frame: pl.DataFrame, columns: Columns, row_id: list[str], drop_worst: int):
        self.frame, self.columns, self.row_id, self.drop_worst = frame, columns, row_id, drop_worst
        self.keep = np.ones(len(frame), bool)
        self.excluded: list[Excluded] = []
        self.loss = self.numbers(columns.loss)

    def numbers(self, name: str) -> np.ndarray:
        return _numbers(self.frame, name, self.row_id)

    def apply(self) -> None:
        if "status" in self.frame.columns:
            status = self.frame["status"].to_list()
            self.drop([s != "done" for s in status], "not done", lambda i: f"status is {status[i]!r}")
        self.drop(~np.isfinite(self.loss), "no loss", lambda i: f"{self.columns.loss} is {self.loss[i]:g}")
        self.positive(self.columns.loss, self.loss)
        if self.columns.baseline is not None:
            self.baseline()
        if self.columns.select_by is not None:
            self.tuned_best()
        if self.drop_worst:
            order = np.argsort(np.where(self.keep, -self.loss, np.inf), kind="stable")
            worst = np.isin(np.arange(len(self.keep)), order[: self.drop_worst])
            rule = f"among the {self.drop_worst} highest losses"
            self.drop(worst, rule, lambda i: f"{self.columns.loss} is {self.loss[i]:.6g}")

    def drop(self, where: np.ndarray | list[bool], rule: str, reason: Callable[[int], str]) -> None:
        hit = np.flatnonzero(self.keep & np.asarray(where, bool))
        self.excluded += [Excluded(self.row_id[i], rule, reason(i)) for i in hit]
        self.keep[hit] = False

    def positive(self, name: str, values: np.ndarray) -> None:
        bad = self.keep & ~(np.isfinite(values) & (values > 0))
        if bad.any():
            at = int(np.argmax(bad))
            raise InputError(
                f"column {name!r} is {values[at]:g} in {self.row_id[at]}; a power law wants finite numbers above 0. "
                "Correct the row, or mark it with a status other than 'done'."
            )

    def baseline(self) -> None:
        name = self.columns.baseline
        baseline = self.numbers(name)
        self.positive(name, baseline)

        def reason(i: int) -> str:
            return f"{self.columns.loss} {self.loss[i]:.6g} against {name} {baseline[i]:.6g}"

        self.drop(self.loss >= baseline, "does not beat the baseline", reason)

    def tuned_best(self) -> None:
        by = self.columns.select_by
        value = self.numbers(by)
        self.drop(np.isnan(value), "no value to tune by", lambda i: f"{by} is missing")
        cells = list(zip(*(self.frame[name].to_list() for name in self.columns.select_within), strict=True))
        best: dict[tuple, int] = {}
        for i in np.flatnonzero(self.keep):
            if cells[i] not in best or value[i] < value[best[cells[i]]]:
                best[cells[i]] = i

        def reason(i: int) -> str:
            chosen = best[cells[i]]
            return f"{by} {value[i]:.6g} against {value[chosen]:.6g} of {self.row_id[chosen]}"

        self.drop(~np.isin(np.arange(len(value)), list(best.values())), "not the tuned best of its cell", reason)


def _finish(
    frame: pl.DataFrame,
    columns: Columns,
    row_id: list[str],
    rules: _Rules,
    source: str,
    unfinished: tuple[Excluded, ...],
) -> RunTable:
    keep = rules.keep
    n = None if columns.n is None else rules.numbers(columns.n)
    if n is not None:
        rules.positive(columns.n, n)
    d = rules.numbers(columns.d or columns.flops)
    rules.positive(columns.d or columns.flops, d)
    if columns.flops is not None:
        d = d / (6 * n)
    cluster = np.arange(len(frame))
    if columns.cluster is not None:
        cluster = frame[columns.cluster].rank("dense").fill_null(0).to_numpy()
        if frame.filter(keep)[columns.cluster].null_count():
            raise InputError(f"column {columns.cluster!r} (--cluster) has empty cells; give each row its cluster")
    return RunTable(
        source=source,
        columns=columns,
        frame=frame.filter(keep),
        left_out=frame.filter(~keep),
        row_id=tuple(np.asarray(row_id, object)[keep]),
        loss=rules.loss[keep],
        d=d[keep],
        n=None if n is None else n[keep],
        cluster=cluster[keep].astype(np.int64),
        known_floor=_known_floor(rules, columns),
        excluded=tuple(rules.excluded) + unfinished,
        warnings=_repeats(frame.filter(keep), columns, n, d, keep),
    )


def _known_floor(rules: _Rules, columns: Columns) -> float | None:
    if columns.floor is None or not rules.keep.any():
        return None
    floor = rules.numbers(columns.floor)
    if np.isnan(floor[rules.keep]).all():
        return None  # a column of every sweep, empty where the truth is not known
    rules.positive(columns.floor, floor)
    floor = floor[rules.keep]
    if np.ptp(floor) > 1e-9 * floor[0]:
        raise InputError(
            f"column {columns.floor!r} runs from {floor.min():.9g} to {floor.max():.9g}; a law has one floor. "
            "Fit the rows of one data set at a time."
        )
    return float(floor[0])


def _repeats(
    kept: pl.DataFrame, columns: Columns, n: np.ndarray | None, d: np.ndarray, keep: np.ndarray
) -> tuple[str, ...]:
    if columns.cluster is not None:
        return ()
    parts = {"d": d[keep]} | ({} if n is None else {"n": n[keep]})
    if columns.seed is not None:
        parts["seed"] = kept[columns.seed].cast(pl.String).fill_null("-").to_numpy()
    repeated = int(pl.DataFrame(parts).is_duplicated().sum())
    what = " and ".join(name.upper() if name != "seed" else name for name in parts)
    if not repeated:
        return ()
    return (
        f"{repeated} rows share {what} with another row. If they are checkpoints or copies of one run, "
        "name the run with --cluster: else every interval is too narrow.",
    )
