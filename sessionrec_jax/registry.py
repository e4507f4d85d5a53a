"""Extensions by name: session encoders, sequence encoders, rank losses and sources, each in one file.

A registry knows where the built-in extensions are and imports one only when it is asked for. Code outside this package
adds its own by `register`; on the command line `--plugin MODULE` imports a module that does so.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Generic, TypeVar

from sessionrec_jax.errors import InputError, near_miss

T = TypeVar("T")


class Registry(Generic[T]):
    """Values of one kind by name. A built-in value is the attribute `attribute` of its module."""

    def __init__(self, kind: str, attribute: str, modules: dict[str, str]):
        self.kind = kind
        self._attribute, self._modules = attribute, modules
        self._added: dict[str, T] = {}

    def __iter__(self) -> Iterator[str]:
        """All names, the built-in ones first."""
        return iter((*self._modules, *self._added))

    def __contains__(self, name: str) -> bool:
        return name in self._modules or name in self._added

    def register(self, name: str, value: T) -> None:
        """Adds `value` under a new name. Registering the same value again does nothing.

        Raises InputError where the name is not an identifier or is taken by another value.
        """
        if not name.isidentifier():
            raise InputError(f"a {self.kind} needs a name that is a Python identifier; got {name!r}")
        if name in self._modules or self._added.get(name, value) is not value:
            raise InputError(f"there is already a {self.kind} named {name!r}; choose another name")
        self._added[name] = value

    def find(self, name: str) -> T:
        """The value of this name. Raises InputError that names the nearest known one."""
        if name in self._added:
            return self._added[name]
        if name not in self._modules:
            raise InputError(f"unknown {self.kind} {name!r}; {near_miss(name, tuple(self))}")
        return getattr(importlib.import_module(self._modules[name]), self._attribute)
