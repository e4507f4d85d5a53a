"""The truth about the loss where the process that made the data is known: a sweep's theory.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from scaling.errors import InputError

_KEYS = {"exponent", "floor", "curve", "note"}


@dataclass(frozen=True)
class Theory:
    """The truth that a fit is held against."""

    exponent: float
    """beta of the excess over the floor, excess ~ D^-beta, as D grows."""
    floor: float
    """Irreducible loss, in the table's unit."""
    curve: tuple[tuple[float, float], ...]
    """(D, excess over the floor) of an exact reference at finite size; may be empty."""
    note: str
    """The source of these numbers."""


def read_theory(path: str | Path) -> Theory:
    """Reads a JSON object with exactly the keys exponent, floor, curve and note. Raises InputError."""
    try:
        values = json.loads(Path(path).read_text())
        if not isinstance(values, dict) or set(values) != _KEYS:
            raise InputError(f"{path} needs an object with exactly the keys {', '.join(sorted(_KEYS))}")
        curve = tuple((float(d), float(excess)) for d, excess in values["curve"])
        return Theory(float(values["exponent"]), float(values["floor"]), curve, str(values["note"]))
    except InputError:
        raise
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{path} is not a theory: {error}; wanted numbers, and the curve as [[D, excess], ...]"
        ) from error
