"""Which columns of a log a run sees: side information of items, and context of sessions."""

from __future__ import annotations

from sessionrec_jax.config.settings import Config
from sessionrec_jax.data.catalogue import ITEM_ID
from sessionrec_jax.data.session_context import NONE
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.errors import InputError, near_miss


def side_columns(config: Config, prepared: Prepared) -> dict[str, int]:
    """Columns of side information that the model sees, and the number of values of each. Raises InputError where one is
    not in the log, or items are to be scored by what the model does not see."""
    found = _chosen("--data.side-columns", config.data.side_columns, prepared.side_values)
    _chosen("--model.scored-by", config.model.scored_by, found | ({ITEM_ID: 0} if config.model.id_width else {}))
    return found


def session_context(config: Config, prepared: Prepared) -> dict[str, int]:
    """Columns of session context that the model sees, and the number of values of each."""
    names = config.data.session_context
    return {} if names == (NONE,) else _chosen("--data.session-context", names, prepared.context_values)


def _chosen(flag: str, names: tuple[str, ...], values: dict[str, int]) -> dict[str, int]:
    """Columns and their number of values; none named: all."""
    for name in names:
        if name not in values:
            raise InputError(f"{flag} {name}: {near_miss(name, values) if values else 'there are no such columns'}")
    return {name: values[name] for name in names or values}
