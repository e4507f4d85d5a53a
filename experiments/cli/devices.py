"""Reads the flags `--mesh data=4,model=2` and `--hosts coordinator=HOST:PORT,count=2,index=0`."""

from __future__ import annotations

from dataclasses import fields

from sessionrec_jax.config.settings import Hosts, Mesh
from sessionrec_jax.errors import InputError, near_miss


def mesh_of(axes: str) -> Mesh:
    """Returns the Mesh of these axes; other axes keep their default. Raises InputError for malformed text."""
    return Mesh(**{axis: int(size) for axis, size in _mesh(axes)})


def written_out(argv: list[str]) -> list[str]:
    """Returns `argv` with each of both flags replaced by one flag per field of Mesh or Hosts."""
    written: list[str] = []
    rest = iter(argv)
    for word in rest:
        if word == "--mesh":
            parts = _mesh(next(rest, ""))
        elif word == "--hosts":
            given = next(rest, "")
            given = f"coordinator={given}" if given == "auto" else given
            parts = _parts(word, given, Hosts, "auto, or coordinator=HOST:PORT,count=N,index=I")
        else:
            written.append(word)
            continue
        written += [f"{word}.{name.replace('_', '-')}={value}" for name, value in parts]
    return written


def _mesh(axes: str) -> list[tuple[str, str]]:
    expected = "axes and their sizes, such as data=4,model=2"
    parts = _parts("--mesh", axes, Mesh, expected)
    if not all(size.isdecimal() for _, size in parts):
        raise InputError(f"--mesh is {axes!r}; expected {expected}")
    return parts


def _parts(flag: str, given: str, kind: type, expected: str) -> list[tuple[str, str]]:
    known = [field.name for field in fields(kind)]
    parts = [part.partition("=") for part in given.split(",")]
    for name, equals, value in parts:
        if not (equals and value):
            raise InputError(f"{flag} is {given!r}; expected {expected}")
        if name not in known:
            raise InputError(f"{flag} names {name!r}; {near_miss(name, known)}")
    return [(name, value) for name, _, value in parts]
