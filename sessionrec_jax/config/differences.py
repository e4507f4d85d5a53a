"""The settings in which two runs, or two sweeps, differ, as the end of an error message."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from doors.address import shown
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import flat, result_settings, short

_MOST_SETTINGS, _MOST_VALUES = 4, 6
_FINGERPRINT = "data.fingerprint"


def differences(there: Sequence[Config], here: Sequence[Config]) -> str:
    """Returns the settings whose values are not the same in the runs `there` and `here`, with both values.

    Settings that cannot change the result of a run are left out.
    """
    values_there, values_here = _values(there), _values(here)
    names = [name for name in values_here if values_there[name] != values_here[name]]
    follows = _following([*there, *here])
    names = [name for name in names if name not in follows] or names
    parts = [_log(there, here)] if _FINGERPRINT in names else []
    names = [name for name in names if name != _FINGERPRINT]
    room = _MOST_SETTINGS - len(parts)
    parts += [f"{_flag(name)} is {_few(values_there[name])} there and {_few(values_here[name])} here"
              for name in names[:room]]  # fmt: skip
    if more := len(names[room:]):
        parts.append(f"and {more} more {'differs' if more == 1 else 'differ'}")
    return "; ".join(parts) or "each setting has the same values, in other combinations"


def _following(configs: Sequence[Config]) -> set[str]:
    """Returns the settings that the runs took from their log and their other settings. They are named only if no other
    setting differs."""
    found = {"data.items_per_row"}
    if all(config.data.rows_auto for config in configs):
        found.add("data.rows")
    if all(config.data.eval_users_auto for config in configs):
        found.add("data.eval_users")
    return found


def _values(configs: Iterable[Config]) -> dict[str, list[Any]]:
    """Returns the different values of each setting over the runs, in order."""
    each = [flat(result_settings(config)) for config in configs]
    found = {name: {short(settings[name]): settings[name] for settings in each} for name in each[0]}
    return {name: sorted(by_text.values(), key=_order) for name, by_text in found.items()}


def _order(value: Any) -> tuple[bool, Any]:
    is_number = isinstance(value, (int, float))
    return (not is_number, value if is_number else str(value))


def _few(values: Sequence[Any]) -> str:
    words = [short(value) or "empty" for value in values[:_MOST_VALUES]]
    return " ".join(words) + (f" ... ({len(values)} values)" if len(values) > _MOST_VALUES else "")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _log(there: Sequence[Config], here: Sequence[Config]) -> str:
    old, new = there[0].data, here[0].data
    return (
        f"the log is {shown(old.path)} (fingerprint {old.fingerprint}) there and {shown(new.path)} "
        f"({new.fingerprint}) here"
    )
