"""The columns of a log that a run sees: side information and content vectors of items, and context of sessions."""

from __future__ import annotations

from typing import NamedTuple

from sessionrec_jax.config.settings import Config
from sessionrec_jax.data.catalogue import ITEM_ID
from sessionrec_jax.data.session_context import NONE
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.errors import InputError, near_miss


class ItemColumns(NamedTuple):
    """The columns of the item table that the model sees."""

    side_values: dict[str, int]
    """Columns of side information, and the number of values of each."""
    vector_widths: dict[str, int]
    """Columns of content vectors, and the number of floats of each."""


def item_columns(config: Config, prepared: Prepared) -> ItemColumns:
    """Returns the columns that `data.side_columns` chooses.

    Raises InputError if a chosen column is missing, or if `model.scored_by` names one that the model does not see.
    """
    values, widths = prepared.side_values, prepared.vector_widths
    found = _chosen("--data.side-columns", config.data.side_columns, values | widths)
    _chosen("--model.scored-by", config.model.scored_by, found | ({ITEM_ID: 0} if config.model.id_width else {}))
    return ItemColumns(*({name: size for name, size in found.items() if name in kind} for kind in (values, widths)))


def session_context(config: Config, prepared: Prepared) -> dict[str, int]:
    """Returns the number of values of each column of session context that the model sees."""
    names = config.data.session_context
    return {} if names == (NONE,) else _chosen("--data.session-context", names, prepared.context_values)


def _chosen(flag: str, names: tuple[str, ...], values: dict[str, int]) -> dict[str, int]:
    for name in names:
        if name not in values:
            raise InputError(f"{flag} {name}: {near_miss(name, values) if values else 'there are no such columns'}")
    return {name: values[name] for name in names or values}  # no name: all columns
