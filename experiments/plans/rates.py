"""The best learning rate and batch of each size: found among tuned runs, written to a file, read by other plans."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.plans.sizes import SETTINGS, size_of, sized
from scaling.cells import vertex
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import flat, short, to_dict
from sessionrec_jax.errors import InputError, near_miss
from sessionrec_jax.runfolder.files import read_json, write_json

FILE = "learning_rates.json"
_KEYS = ("learning_rate_peak", "rows", "settings")
_SECTIONS = ("paradigm", "model.", "loss.", "optim.", "data.sessions_per_row")
"""Beginnings of the names of settings that the best rate depends on."""
_TUNED = ("optim.learning_rate_peak", "optim.learning_rate_rule", *SETTINGS)
"""Settings among those that a size or its tuning decides."""


class Tuned(NamedTuple):
    """The best settings of a size."""

    learning_rate_peak: float
    rows: int
    """Rows of a batch, `data.rows`."""


def check_halving(tried: Sequence[float]) -> None:
    """Raises InputError if there is one learning rate, so that halving has nothing to drop."""
    if len(set(tried)) < 2:
        raise InputError(
            f"--halving drops learning rates, but there is only one, {tried[0]:g}; give several by --learning-rates, "
            "or leave --halving out"
        )


def best_with_rows(
    size: str, runs: Iterable[tuple[int, float, float | None]], dropped: Iterable[tuple[int, float]] = ()
) -> Tuned:
    """Returns the rows that reach the lowest objective, and their best rate.

    Args:
      size: name of the runs' size, for messages.
      runs: (rows, rate, objective), any number of each; None: the run diverged.
      dropped: (rows, rate) of the runs that halving dropped. The best rate is then the best of those that it kept.

    Raises InputError as `best` does, for the rows that are best. The others may have their lowest objective at an end.
    """
    by_rows: dict[int, list[tuple[float, float | None]]] = defaultdict(list)
    for rows, rate, objective in runs:
        by_rows[rows].append((rate, objective))
    chosen = min(by_rows, key=lambda rows: min(_means(by_rows[rows]).values()))
    named = f"{size} with batches of {chosen} rows" if len(by_rows) > 1 else size
    return Tuned(best(named, by_rows[chosen], {rate for rows, rate in dropped if rows == chosen}), chosen)


def _means(runs: Iterable[tuple[float, float | None]]) -> dict[float, float]:
    """Returns the mean objective of each rate, in ascending order of rates; infinite where a run diverged."""
    by_rate: dict[float, list[float]] = defaultdict(list)
    for rate, objective in runs:
        by_rate[rate].append(math.inf if objective is None else objective)
    return {rate: sum(values) / len(values) for rate, values in sorted(by_rate.items())}


def best(size: str, runs: Sequence[tuple[float, float | None]], dropped: Collection[float] = ()) -> float:
    """Returns the rate of the lowest objective, by a polynomial in its logarithm.

    Args:
      size: name of the runs' size, for messages.
      runs: (rate, objective), any number of each rate; None: the run diverged.
      dropped: rates that halving dropped. With any the result is one of the tried rates, because too few are left for
        the polynomial.

    Raises InputError where the lowest objective is at the lowest or the highest rate that was tried.
    """
    mean = _means(runs)
    finite = [rate for rate in mean if mean[rate] < math.inf]
    if not finite:
        raise InputError(f"size {size}: every run diverged; try lower rates than {min(mean):g}")
    lowest = min(finite, key=mean.get)
    inner, tried = sorted({*finite, *dropped}), sorted({*mean, *dropped})
    if lowest in (inner[0], inner[-1]):
        to_add = _beyond(tried, lowest, is_high=lowest == inner[-1])
        raise InputError(
            f"size {size}: the lowest objective, {mean[lowest]:.5g}, is at {lowest:g}, an end of the rates that were "
            f"tried; add {to_add:.3g} to --learning-rates"
        )
    if dropped:
        return lowest
    kept = sorted((rate, objective) for rate, objective in runs if mean[rate] < math.inf)
    rate_R, objective_R = np.array(kept, float).T
    found = vertex.local(vertex.Curve.from_rows(rate_R, objective_R, np.arange(len(rate_R))))
    if found.log_n is None:
        tried = ", ".join(f"{rate:g}" for rate in finite)
        raise InputError(f"size {size}: the objective has no clear minimum among {tried}; add seeds, or rates")
    return float(f"{np.exp(found.log_n):.3g}")


def _beyond(tried: list[float], end: float, *, is_high: bool) -> float:
    """One step past the end; half way where the next one was tried and diverged."""
    at = tried.index(end)
    if is_high and at + 1 < len(tried):
        return math.sqrt(end * tried[at + 1])
    step = tried[1] / tried[0] if len(tried) > 1 else 2.0
    return end * step if is_high else end / step


def write(folder: Path, base: dict[str, Any], found: dict[str, Tuned]) -> Path:
    """Writes FILE and returns its path. `base`: any run of the sweep, as `to_dict` writes it."""
    path = folder / FILE
    rates, rows = ({size: tuned[part] for size, tuned in found.items()} for part in range(2))
    write_json(path, dict(zip(_KEYS, (rates, rows, settings(base)), strict=True)))
    return path


def read(path: Path, base: Config, sizes: Sequence[str]) -> dict[str, Tuned]:
    """Returns the best settings of each size. Raises InputError where the file is missing or damaged, lacks a size, or
    was tuned for other settings."""
    if not path.is_file():
        raise InputError(f"no file {path}; `sessionrec sweep learning_rate --out SWEEP` writes SWEEP/{FILE}")
    values = read_json(path)
    if not (isinstance(values, dict) and all(isinstance(values.get(key), dict) for key in _KEYS)):
        raise InputError(f"{path} is not what a sweep of the plan learning_rate writes; it wants {', '.join(_KEYS)}")
    rates, rows, tuned = (values[key] for key in _KEYS)
    names = {size: size_of(sized(base, size)) for size in sizes}
    for name in names.values():
        if name not in rates or name not in rows:
            raise InputError(f"{path} has no rate for the size {name!r}; {near_miss(name, rates)}. Tune it too.")
        if base.data.rows not in (0, rows[name]) and not base.data.rows_auto:
            raise InputError(
                f"{path} has batches of {rows[name]} rows for the size {name}, but --data.rows is {base.data.rows}; "
                "leave --data.rows out, or tune with it"
            )
    refuse_other_settings(path, tuned, base)
    return {size: Tuned(rates[name], rows[name]) for size, name in names.items()}


def refuse_other_settings(path: Path, tuned: Any, base: Config) -> None:
    """Raises InputError where the rates of a file were tuned for other settings than those of `base`, or the file does
    not say for which."""
    if not isinstance(tuned, dict):
        raise InputError(f"{path} does not say for which settings its rates hold; fit them to a sweep folder")
    here = settings(to_dict(base))
    differ = [name for name in here if here[name] != tuned.get(name)]
    if differ:
        each = (f"{name} was {short(tuned.get(name))} and is {short(here[name])}" for name in differ)
        raise InputError(f"{path} was tuned for other settings: {'; '.join(each)}. Tune for these.")


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that the best rate depends on, besides the size and the length of a run."""
    return {
        name: list(value) if isinstance(value, tuple) else value  # as JSON returns it
        for name, value in flat(config).items()
        if name.startswith(_SECTIONS) and name not in _TUNED
    }
