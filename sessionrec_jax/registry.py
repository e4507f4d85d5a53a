"""Extensions by name: session encoders, sequence encoders, rank losses and sources, each in one file.

A built-in extension is a file in the folder of its kind; its name is the file's, and the file's first line is its line
of --help. Code outside this package adds its own with a `register_` function; on the command line `--plugin MODULE`
imports a module that does so.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sessionrec_jax.errors import InputError, near_miss


class Registry:
    """The extensions of one kind. A built-in one is imported when it is first asked for."""

    def __init__(self, kind: str, folder: str, attribute: str = "", helpers: tuple[str, ...] = ()):
        """`attribute`: the name in the file that holds the extension; empty: the module itself is the extension.
        `helpers`: files of the folder that are no extension."""
        self.kind = kind
        self._package, self._attribute = f"{__package__}.{folder.replace('/', '.')}", attribute
        files = sorted((Path(__file__).parent / folder).glob("*.py"))
        self._files = {path.stem: path for path in files if path.stem not in ("__init__", *helpers)}
        self._added: dict[str, Any] = {}

    def __iter__(self) -> Iterator[str]:
        """Yields all names, the built-in ones first."""
        return iter((*self._files, *self._added))

    def __contains__(self, name: str) -> bool:
        return name in self._files or name in self._added

    def register(self, name: str, extension: Any) -> None:
        """Adds an extension under a new name. Registering the same object again does nothing.

        Raises InputError if the name is not a Python identifier or belongs to another extension.
        """
        if not name.isidentifier():
            raise InputError(f"a {self.kind} is named {name!r}; expected a Python identifier, such as my_encoder")
        if name in self._files or self._added.get(name, extension) is not extension:
            raise InputError(f"there is already a {self.kind} named {name!r}; choose another name")
        self._added[name] = extension

    def find(self, name: str) -> Any:
        """Returns the extension of this name. Raises InputError, which names the nearest known name."""
        if name in self._added:
            return self._added[name]
        if name not in self._files:
            raise InputError(
                f"unknown {self.kind} {name!r}; {near_miss(name, self)} "
                "(if a module of yours registers it, add --plugin MODULE)"
            )
        module = importlib.import_module(f"{self._package}.{name}")
        return getattr(module, self._attribute) if self._attribute else module

    def help(self, opening: str) -> str:
        """Returns the text of --help: the opening, then one line for each built-in extension. Imports none of them."""
        lines = (path.read_text().partition("\n")[0].strip().strip('"').rstrip(".") for path in self._files.values())
        return "\n".join([opening, *lines])


SESSION_ENCODERS = Registry("session encoder", "model/session_encoders", "ENCODER")
SEQUENCE_ENCODERS = Registry("sequence encoder", "model/sequence_encoders", "ENCODER")
RANK_LOSSES = Registry("rank loss", "loss/rank_losses", "LOSS")
SOURCES = Registry("source", "data/sources", helpers=("files",))


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
