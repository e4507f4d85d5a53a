"""A file of settings: TOML, YAML, JSON, or the config.json of a run. It is read into a Config, and written as TOML.

A file of one's own names only the settings that differ from the defaults:

    paradigm = "nspp"
    [model]
    width = 128
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import yaml

from doors import state
from sessionrec_jax.config.settings import CONFIG_VERSION, Config
from sessionrec_jax.config.values import from_dict, to_dict
from sessionrec_jax.errors import InputError

_KINDS = (".toml", ".yaml", ".yml", ".json")


def read_settings(path: Path) -> Config:
    """Reads a file of settings, or the config.json of a run folder. What the file leaves out has its default.

    A file without config_version is one of this release. Raises InputError if the file does not exist, is of another
    kind, does not parse, has an unknown name, or a value of the wrong type.
    """
    path = path / "config.json" if path.is_dir() else path
    if path.suffix not in _KINDS:
        raise InputError(f"{path} is no file of settings; wanted a name that ends in {', '.join(_KINDS)}")
    try:
        values = state.read_json(path) if path.suffix == ".json" else _parsed(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; wanted a file of settings, or the folder of a run") from None
    if isinstance(values, dict):
        values = {"config_version": CONFIG_VERSION} | values
    return from_dict(values, str(path))


def to_toml(config: Config) -> str:
    """Returns all settings as TOML, which `read_settings` reads back to an equal Config."""
    plain = {name: value for name, value in to_dict(config).items() if not isinstance(value, dict)}
    sections = {name: value for name, value in to_dict(config).items() if isinstance(value, dict)}
    parts = [_lines(plain), *(f"[{name}]\n{_lines(values)}" for name, values in sections.items())]
    return "\n".join(parts)


def _parsed(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        return tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text) or {}
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path} is not valid {path.suffix[1:].upper()}: {' '.join(str(error).split())}") from None


def _lines(values: dict[str, Any]) -> str:
    """Returns one line for each value. JSON writes texts, numbers, booleans and lists as TOML does."""
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
