"""`prepare(source, out=..., ...)` reads a log by the name of its source and writes a prepared folder."""

from __future__ import annotations

import types
import typing
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal

from doors.address import address_of
from doors.terminal import say
from sessionrec_jax.data import bucket_log
from sessionrec_jax.data.preparation.atomic_folder import partial_path
from sessionrec_jax.data.preparation.beam import Beam
from sessionrec_jax.data.preparation.prepare import Settings, check_out
from sessionrec_jax.data.preparation.prepare import prepare as prepare_raw
from sessionrec_jax.data.store import Prepared, open_log
from sessionrec_jax.errors import InputError, near_miss
from sessionrec_jax.registry import SOURCES

_ROWS_PER_BEAM_CALL = 20_000_000


def prepare(
    source: str,
    path: str | Path | None = None,
    *,
    out: str | Path,
    overwrite: bool = False,
    beam: tuple[str, ...] = (),
    quiet: bool = False,
    **options: Any,
) -> Prepared:
    """Checks a raw log, cuts its sessions, splits it and writes the prepared folder `out`. Returns the open log.
    `out` may be in a bucket (`s3://`, `gs://`).

    `source` is a name that `sessionrec sources` lists: a published log, whose unpacked folder is `path`; "table" for
    any table of yours; or "synthetic". `options` are the options of `sessionrec prepare SOURCE --help`, with _ for -:
    those of the source (its `Options`) and those of preparation (`data.preparation.prepare.Settings`). `overwrite`
    replaces a prepared folder that is already there. `beam` prepares on many machines, with these options of its
    runner. `quiet` prints no progress.

    >>> log = prepare("table", exposures="log.csv", user="user", item="item", time="ts", clicked="label", out="TWO",
    ...               session_rule="gap_minutes=30", quiet=True)
    >>> log.users, log.items
    (40, 60)
    >>> prepare("table", exposures="log.csv", usr="user", out="THREE")
    Traceback (most recent call last):
    doors.errors.InputError: source table has no option 'usr'; did you mean 'user'?

    Raises InputError for an unknown source, an unknown option or a value of the wrong type, if `out` exists, and if too
    many rows break the contract of a log.
    """
    module = SOURCES.find(source)
    if path is not None:
        options["path"] = path
    _refuse_unknown(source, options, [*_names(module.Options), *_names(Settings)])
    source_options, settings = (_build(kind, options) for kind in (module.Options, Settings))
    report = (lambda _: None) if quiet else say
    if (address := address_of(out)) is not None:
        if beam:
            raise InputError(
                f"--beam writes from many machines, and {address} is in a bucket; wanted a folder for --out"
            )
        bucket_log.check_out(address, overwrite)
        with bucket_log.writing(address) as folder:
            prepare_raw(module.read(source_options), folder, settings, say=report)
        return open_log(str(address))
    folder = Path(out)
    check_out(folder, overwrite)
    engine: dict[str, Any] = {}
    if beam:
        engine = {"engine": Beam(beam, partial_path(folder)), "piece_rows": _ROWS_PER_BEAM_CALL}
    return prepare_raw(module.read(source_options), folder, settings, overwrite=overwrite, say=report, **engine)


def _names(kind: Any) -> list[str]:
    return [field.name for field in fields(kind)]


def _refuse_unknown(source: str, options: dict[str, Any], known: list[str]) -> None:
    for name in options:
        if name not in known:
            raise InputError(f"source {source} has no option {name!r}; {near_miss(name, known)}")


def _build(kind: Any, options: dict[str, Any]) -> Any:
    """Returns the dataclass `kind` made of those options that are fields of it."""
    wanted = typing.get_type_hints(kind)
    given = {name: _typed(wanted[name], options[name], name) for name in _names(kind) if name in options}
    for field in fields(kind):
        if field.name not in given and field.default is MISSING and field.default_factory is MISSING:
            raise InputError(f"the option {field.name!r} is missing; add {field.name}=...")
    return kind(**given)


def _typed(wanted: Any, value: Any, name: str) -> Any:
    """Returns `value` as the type `wanted`. A list becomes a tuple, text a path, an integer a float."""
    for kind in typing.get_args(wanted) if _is_union(wanted) else (wanted,):
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin is Literal and value in arguments:
            return value
        if origin is tuple and isinstance(value, (list, tuple)):
            return tuple(_typed(arguments[0], each, name) for each in value)
        if kind is Path and isinstance(value, str):
            return Path(value)
        if kind is float and type(value) is int:
            return float(value)
        if origin is None and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
            return value
    expected = getattr(wanted, "__name__", None) if not typing.get_args(wanted) else str(wanted)
    raise InputError(f"the option {name} is {value!r}; expected {str(expected).replace('typing.', '')}")


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, types.UnionType)
