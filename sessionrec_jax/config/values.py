"""A Config as a value: fields replaced by dotted names, stored as JSON, and named by everything that can change its
numbers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from typing import Any, Literal, TypeVar

from sessionrec_jax.config.settings import CONFIG_VERSION, Config, Optim, Train
from sessionrec_jax.errors import InputError, near_miss

# These cannot change the result of a run: its folder, the origin of a setting, logs, checkpoints, how its steps are
# spread over devices, time and runs, and how attention is computed.
_NOT_IN_RUN_ID = (
    ("data", "path"),
    ("data", "rows_auto"),
    ("data", "eval_users_auto"),
    ("model", "attention"),
    ("optim", "learning_rate_rule"),
    ("mesh", "data"),
    ("mesh", "fsdp"),
    ("mesh", "model"),
    ("train", "microbatches"),
    ("train", "checkpoint_every_seconds"),
    ("train", "checkpoints_kept"),
    ("train", "checkpoints_at"),
    ("train", "begins_from"),
    ("train", "evaluate_by"),
    ("train", "log_every_steps"),
    ("train", "profile_steps"),
)

_LATER = {("optim", "gradient_sum"): Optim().gradient_sum}
"""Settings that are younger than this config version. A run with such a default has the id that it had before."""


def replace(config: Config, overrides: dict[str, Any]) -> Config:
    """Returns `config` with dotted fields replaced, such as {"model.width": 128}. Raises InputError for unknown names
    and for values of the wrong type."""
    for path, value in overrides.items():
        room, _, name = path.partition(".")
        _known(room, _names(Config), "config section")
        part: Any = getattr(config, room)
        if not name:
            wanted: Any = typing.get_type_hints(Config)[room]
            if _is_section(wanted):
                raise InputError(
                    f"{room!r} is a config section; wanted one of its fields, such as {room}.{_names(wanted)[0]}"
                )
            config = dataclasses.replace(config, **{room: _typed(wanted, value, path)})
            continue
        if not _is_section(part):
            raise InputError(f"{path!r}: {room!r} is a field of its own, not a config section")
        types_ = typing.get_type_hints(type(part))
        _known(name, types_, f"field of config section {room!r}")
        part = dataclasses.replace(part, **{name: _typed(types_[name], value, path)})
        config = dataclasses.replace(config, **{room: part})
    return config


def program_of(config: Config) -> Config:
    """Returns `config` with defaults for every field that the compiled step gets as an argument or that only the host
    reads. Runs that can be trained together have equal results."""
    default = Optim()
    optim = dataclasses.replace(
        config.optim,
        learning_rate_peak=default.learning_rate_peak,
        learning_rate_rule=default.learning_rate_rule,
        schedule=default.schedule,
        warmup_fraction=default.warmup_fraction,
        warmup_steps=default.warmup_steps,
        cooldown_fraction=default.cooldown_fraction,
        table_prior=default.table_prior,
    )
    train = dataclasses.replace(config.train, seed=Train().seed, checkpoints_at=(), begins_from="")
    return dataclasses.replace(config, optim=optim, train=train)


def to_dict(config: Config) -> dict[str, Any]:
    """Returns the fields by section, with the version, ready for JSON."""
    return {"config_version": CONFIG_VERSION, **dataclasses.asdict(config)}


def from_dict(values: Any, where: str = "config") -> Config:
    """Returns the Config that `to_dict` wrote. Raises InputError for another version, unknown fields and wrong
    types."""
    if not isinstance(values, dict):
        raise InputError(
            f"{where}: wanted a JSON object with the sections {_names(Config)}, got {type(values).__name__}"
        )
    values = dict(values)
    version = values.pop("config_version", None)
    if version != CONFIG_VERSION:
        raise InputError(
            f"{where} has config_version {version!r}; this release reads {CONFIG_VERSION}. "
            "Run it again into a new folder, or use the release that wrote it."
        )
    return _build(Config, values, where)


T = TypeVar("T")


def _build(kind: type[T], values: Any, where: str) -> T:
    if not isinstance(values, dict):
        raise InputError(f"{where}: wanted an object with the fields {_names(kind)}, got {values!r}")
    types_ = typing.get_type_hints(kind)
    built = {}
    for name, value in values.items():
        _known(name, types_, f"field in {where}")
        wanted: Any = types_[name]
        if _is_section(wanted):
            built[name] = _build(wanted, value, f"{where}: {name}")
        else:
            built[name] = _typed(wanted, value, f"{where}: {name}")
    return kind(**built)


def _typed(wanted: Any, value: Any, where: str) -> Any:
    if typing.get_origin(wanted) is Literal:
        choices = typing.get_args(wanted)
        if value not in choices:
            raise InputError(f"{where} is {value!r}; wanted one of {', '.join(map(repr, choices))}")
        return value
    if typing.get_origin(wanted) in (types.UnionType, typing.Union):  # a number, or one of some words
        number, words = typing.get_args(wanted)
        if type(value) is number:
            return value
        choices = typing.get_args(words)
        if value not in choices:
            raise InputError(f"{where} is {value!r}; wanted {number.__name__} or {', '.join(map(repr, choices))}")
        return value
    if typing.get_origin(wanted) is tuple:  # JSON has only lists
        if not isinstance(value, (list, tuple)) or not all(isinstance(x, typing.get_args(wanted)[0]) for x in value):
            raise InputError(f"{where} is {value!r}; wanted a list of {typing.get_args(wanted)[0].__name__}")
        return tuple(value)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not wanted:
        raise InputError(f"{where} is {value!r}; wanted {wanted.__name__}")
    return value


def _is_section(value: Any) -> bool:
    return dataclasses.is_dataclass(value)


def _names(kind: type) -> list[str]:
    return [f.name for f in dataclasses.fields(kind)]


def _known(name: str, known: Any, what: str) -> None:
    if name not in known:
        raise InputError(f"unknown {what}: {name!r}; {near_miss(name, known)}")


def run_id(config: Config) -> str:
    """Returns twelve hex digits: a hash of every setting that can change the run's numbers."""
    values = result_settings(config)
    for (room, name), default in _LATER.items():
        if values[room][name] == default:
            del values[room][name]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def result_settings(config: Config) -> dict[str, Any]:
    """Returns what `to_dict` returns, without the settings that cannot change the result of a run."""
    values = to_dict(config)
    for room, name in _NOT_IN_RUN_ID:
        del values[room][name]
    return values


def short(value: Any) -> str:
    """Returns the value of a setting in few letters."""
    if isinstance(value, float):
        return f"{value:g}"
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def flat(config: dict[str, Any]) -> dict[str, Any]:
    """Returns {dotted name: value} of a config."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        fields = value.items() if isinstance(value, dict) else None
        found |= {name: value} if fields is None else {f"{name}.{field}": each for field, each in fields}
    return found
