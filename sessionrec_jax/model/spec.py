"""The shapes of one model, and the arrays that go in and come out. Letters: R rows, L session slots, T item slots,
S = R * L, D width.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from jaxtyping import Array, Float, Int

from sessionrec_jax.config.settings import Model

Params = dict[str, Any]
ROW_MULTIPLE = 64
"""Of the rows of the item tables: they spread over every number of devices that divides it."""


class Spec(NamedTuple):
    """All that decides the parameters' shapes; hashable, so that programs are compiled once for each."""

    model: Model
    ids: int
    """Items + 1."""
    side_values: tuple[tuple[str, int], ...]
    feedback_kinds: int
    positions: int
    session_items: int
    """Most exposures of a session."""
    extra_rows: int = 0
    """Rows of the item tables past `ids`, of no item: with them the rows spread evenly over devices."""
    id_rows: int = 0
    """Rows of the ID table where rare items share them; 0: each id has its own. `embed` and `apply` want 0: of shared
    rows catalogue_read.py makes one an item."""
    context_values: tuple[tuple[str, int], ...] = ()
    """Columns of session context and their number of values."""

    @property
    def rows(self) -> int:
        """Rows of the item tables."""
        return self.ids + self.extra_rows

    @property
    def id_table_rows(self) -> int:
        return self.id_rows + -self.id_rows % ROW_MULTIPLE if self.id_rows else self.rows

    @property
    def in_float32(self) -> Spec:
        """The same model, for evaluation: scores rounded to bfloat16 would tie."""
        return self._replace(model=dataclasses.replace(self.model, compute="float32"))


class Inputs(NamedTuple):
    """The history part of one shard's packed batch (contract 2)."""

    item_T: Int[Array, " T"]
    feedback_T: Int[Array, " T"]
    session_of_item_T: Int[Array, " T"]
    user_of_session_RL: Int[Array, "R L"]
    position_RL: Int[Array, "R L"]
    seconds_RL: Int[Array, "R L"]
    context: dict[str, Int[Array, "R L"]] = {}
    """Codes of each column of session context."""


class Queries(NamedTuple):
    """What the sequence encoder's output o asks of the items; S = R * L session slots."""

    retrieval_SD: Float[Array, "S D"]
    rank_SD: Float[Array, "S D"]
