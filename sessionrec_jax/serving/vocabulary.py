"""The names by which histories call items, kinds of feedback and values of session context. No jax in this file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sessionrec_jax.config.settings import Config
from sessionrec_jax.data.columns import session_context
from sessionrec_jax.data.session_context import FromStart
from sessionrec_jax.data.store import Prepared


@dataclass(frozen=True)
class Vocabulary:
    """The names of one log, and whether the model that reads histories needs their times."""

    items: list[Any]
    """The publisher's ids; entry k is dense item k + 1."""
    feedback_names: list[str]
    context: dict[str, list[Any]]
    """The values of each column of session context; entry k has code k + 1."""
    context_of_start: list[FromStart]
    """The columns of session context that are computed from a session's start."""
    reads_time: str
    """The part of the model that reads time, in words; empty if no part does."""

    @classmethod
    def of_log(cls, prepared: Prepared, config: Config) -> Vocabulary:
        """Returns the names of a prepared log, for a model of these settings."""
        return cls(
            items=prepared.item_ids().to_list(),
            feedback_names=prepared.feedback_names,
            context={name: prepared.context_vocabulary(name).to_list() for name in prepared.context_values},
            context_of_start=prepared.context_of_start,
            reads_time=_what_reads_time(prepared, config),
        )


def _what_reads_time(prepared: Prepared, config: Config) -> str:
    if config.model.places == "relative_time":
        return "the time between sessions (--model.positions relative_time)"
    return " and ".join(name for name in session_context(config, prepared) if name in prepared.context_of_start)
