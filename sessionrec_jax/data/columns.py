"""The columns of a log that a run sees: side information of items and context of sessions."""

from __future__ import annotations

from sessionrec_jax.config.settings import Config
from sessionrec_jax.data.catalogue import ITEM_ID
from sessionrec_jax.data.session_context import NONE
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.errors import InputError, near_miss


def side_columns(config: Config, prepared: Prepared) -> dict[str, int]:
    """Returns the number of values of each column of side information that the model sees.

    Raises InputError if a chosen column is missing, or if `model.scored_by` names one that the model does not see.
    """
    found = _chosen("--data.side-columns", config.data.side_columns, prepared.side_values)
    _chosen("--model.scored-by", config.model.scored_by, found | ({ITEM_ID: 0} if config.model.id_width else {}))
    return found


def session_context(config: Config, prepared: Prepared) -> dict[str, int]:
    """Returns the number of values of each column of session context that the model sees."""
    names = config.data.session_context
    return {} if names == (NONE,) else _chosen("--data.session-context", names, prepared.context_values)


def _chosen(flag: str, names: tuple[str, ...], values: dict[str, int]) -> dict[str, int]:
    for name in names:
        if name not in values:
            raise InputError(f"{flag} {name}: {near_miss(name, values) if values else 'there are no such columns'}")
    return {name: values[name] for name in names or values}  # no name: all columns
