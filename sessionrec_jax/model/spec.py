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
"""The number of rows of each item table is a multiple of this, so that any divisor of it can shard them evenly."""
_LARGE_MULTIPLES = (8_192, 860_160)
"""Further multiples for larger tables: 2^13, and 2^13 x 3 x 5 x 7 for pods such as 16 x 20 x 28 chips."""
_MOST_EXTRA = 0.05


def row_multiple(rows: int) -> int:
    """Returns the number of which the rows of a table must be a multiple. It depends on the table alone, so that any
    number of devices can read a checkpoint. A larger multiple is used where it adds at most 5 % of rows."""
    return max((m for m in _LARGE_MULTIPLES if m <= _MOST_EXTRA * rows), default=ROW_MULTIPLE)


def extra_rows(rows: int) -> int:
    """Returns the rows that fill a table of `rows` rows up to a multiple."""
    return -rows % row_multiple(rows)


class Spec(NamedTuple):
    """Everything that decides the shapes of the parameters. Hashable, so that each Spec is compiled once."""

    model: Model
    ids: int
    """Items + 1; id 0 is padding."""
    side_values: tuple[tuple[str, int], ...]
    """Columns of side information and their number of values."""
    feedback_kinds: int
    max_positions: int
    """Session slots of a row: the longest history."""
    session_items: int
    """Exposures of the longest session."""
    extra_rows: int = 0
    """Rows of the item tables after `ids` that belong to no item. With them many numbers of devices divide the rows."""
    id_rows: int = 0
    """Rows of the ID table if rare items share rows; 0: each id has its own row. `embed` and `apply` expect 0, because
    devices/gathered_rows.py gives each item its own copy first."""
    context_values: tuple[tuple[str, int], ...] = ()
    """Columns of session context and their number of values."""
    vector_widths: tuple[tuple[str, int], ...] = ()
    """Columns of content vectors and their number of floats."""

    @property
    def rows(self) -> int:
        """Rows of the item tables, with the extra ones."""
        return self.ids + self.extra_rows

    @property
    def id_table_rows(self) -> int:
        return self.id_rows + extra_rows(self.id_rows) if self.id_rows else self.rows

    @property
    def in_float32(self) -> Spec:
        """The same model in float32, for evaluation: scores rounded to bfloat16 would tie."""
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
    """The vectors that score the items: projections of the sequence encoder's output o."""

    retrieval_SD: Float[Array, "S D"]
    rank_SD: Float[Array, "S D"]
