"""Extensions by name: session encoders, sequence encoders, rank losses and sources, each in one file.

A built-in extension is a file in the folder of its kind; its name is the file's, and the file's first line is its line
of --help. Code outside this package adds its own with a `register_` function; on the command line `--plugin MODULE`
imports a module that does so.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

from sessionrec_jax.errors import InputError, near_miss

T = TypeVar("T")
_ROOT = Path(__file__).parent.parent


class Registry(Generic[T]):
    """The extensions of one kind, by name. A built-in one is imported when it is first asked for."""

    def __init__(self, kind: str, attribute: str, modules: dict[str, str]):
        """`modules`: the module of each built-in extension, by name. `attribute`: the name in that module that holds
        the extension; empty if the module itself is the extension."""
        self.kind = kind
        self._attribute, self._modules = attribute, modules
        self._added: dict[str, T] = {}

    def __iter__(self) -> Iterator[str]:
        """Yields all names, the built-in ones first."""
        return iter((*self._modules, *self._added))

    def __contains__(self, name: str) -> bool:
        return name in self._modules or name in self._added

    def register(self, name: str, extension: T) -> None:
        """Adds an extension under a new name. Registering the same object again does nothing.

        Raises InputError if the name is not a Python identifier or belongs to another extension.
        """
        if not name.isidentifier():
            raise InputError(f"a {self.kind} needs a name that is a Python identifier; got {name!r}")
        if name in self._modules or self._added.get(name, extension) is not extension:
            raise InputError(f"there is already a {self.kind} named {name!r}; choose another name")
        self._added[name] = extension

    def find(self, name: str) -> T:
        """Returns the extension of this name. Raises InputError, which names the nearest known name."""
        if name in self._added:
            return self._added[name]
        if name not in self._modules:
            raise InputError(self.unknown(name))
        module: Any = importlib.import_module(self._modules[name])
        return getattr(module, self._attribute) if self._attribute else module

    def unknown(self, name: str) -> str:
        """Returns the error message for a name that is not here."""
        plugin = f"if a module of yours registers {name!r}, add --plugin MODULE"
        return f"unknown {self.kind} {name!r}; {near_miss(name, self)} ({plugin})"

    def help(self, opening: str) -> str:
        """Returns a text for --help: the opening, then the first line of each built-in extension's file."""
        files = [_ROOT / f"{module.replace('.', '/')}.py" for module in self._modules.values()]
        lines = (file.read_text().partition("\n")[0].strip('"').rstrip(".") for file in files)
        return "\n".join([opening, *lines])


def _files(package: str, *helpers: str) -> dict[str, str]:
    """Returns the module of each file of a package, by the file's name, without `helpers`."""
    names = sorted(path.stem for path in (_ROOT / package.replace(".", "/")).glob("*.py"))
    return {name: f"{package}.{name}" for name in names if name not in ("__init__", *helpers)}


SESSION_ENCODERS = Registry[Any]("session encoder", "ENCODER", _files("sessionrec_jax.model.session_encoders"))
SEQUENCE_ENCODERS = Registry[Any]("sequence encoder", "ENCODER", _files("sessionrec_jax.model.sequence_encoders"))
RANK_LOSSES = Registry[Any]("rank loss", "LOSS", _files("sessionrec_jax.loss.rank_losses"))
SOURCES = Registry[Any]("source", "", _files("sessionrec_jax.data.sources", "by_table", "files"))


def register_session_encoder(name: str, encoder: Any) -> None:
    """Makes `--model.session-encoder NAME` work. `encoder` is a
    `sessionrec_jax.model.session_encoder.SessionEncoder`."""
    SESSION_ENCODERS.register(name, encoder)


def register_sequence_encoder(name: str, encoder: Any) -> None:
    """Makes `--model.sequence-encoder NAME` work. `encoder` is a
    `sessionrec_jax.model.sequence_encoder.SequenceEncoder`."""
    SEQUENCE_ENCODERS.register(name, encoder)


def register_rank_loss(name: str, loss: Any) -> None:
    """Makes `--loss.rank NAME` work. `loss` is a `sessionrec_jax.loss.rank.RankLoss`."""
    RANK_LOSSES.register(name, loss)


def register_source(name: str, source: Any) -> None:
    """Makes `sessionrec prepare NAME` work. `source` is a module as `sessionrec_jax.data.sources` describes it."""
    SOURCES.register(name, source)
