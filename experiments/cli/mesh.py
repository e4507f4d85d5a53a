"""`--mesh data=4,model=2`: the devices of a command."""

from __future__ import annotations

from dataclasses import fields

from sessionrec_jax.config import Mesh
from sessionrec_jax.errors import InputError, near_miss


def mesh_of(axes: str) -> Mesh:
    """Axes that are not named are as `Mesh` has them. Raises InputError for what is no list of axes and their sizes."""
    return Mesh(**_sizes(axes))


def with_mesh(argv: list[str]) -> list[str]:
    """`argv` with `--mesh data=4,model=2` written out as the fields of Mesh."""
    written: list[str] = []
    rest = iter(argv)
    for word in rest:
        if word != "--mesh":
            written.append(word)
            continue
        for axis, size in _sizes(next(rest, "")).items():
            written += [f"--mesh.{axis}", str(size)]
    return written


def _sizes(axes: str) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for part in axes.split(","):
        axis, equals, size = part.partition("=")
        known = [field.name for field in fields(Mesh)]
        if not (equals and size.isdecimal()):
            raise InputError(f"--mesh is {axes!r}; wanted axes and their sizes, such as data=4,model=2")
        if axis not in known:
            raise InputError(f"--mesh names the axis {axis!r}; {near_miss(axis, known)}")
        sizes[axis] = int(size)
    return sizes
