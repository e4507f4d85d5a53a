"""Parameters by group and training FLOPs in closed form, from the shapes alone (no jax).

`body`: everything that does not grow with the number of items, side-information tables included. `item_table`: the ID
table and the item bias. A law in N must say which it means; both are columns of every row.
"""

from __future__ import annotations

from dataclasses import dataclass

from sessionrec_jax.config import Loss, Model

FLOPS_CONVENTION = (
    "matmul, 2 per multiply-add, backward = 2 x forward, packed items and sessions only, no recomputation"
)


@dataclass(frozen=True)
class Parameters:
    item_table: int
    body: int

    @property
    def total(self) -> int:
        return self.item_table + self.body


def parameters(
    model: Model, ids: int, side_values: tuple[tuple[str, int], ...], feedback_kinds: int, positions: int
) -> Parameters:
    """Trained parameters. `ids` = items + 1; `side_values`: number of codes of each side column."""
    width, hidden = model.width, model.mlp_ratio * model.width
    concatenated = _concatenated(model, len(side_values))
    side = sum((values + 1) * model.side_width for _, values in side_values)
    item_mlp = _item_mlp(model, concatenated) + width  # its bias
    projections = feedback_kinds if model.session_encoder == "typed_mean" else 1
    session_encoder = feedback_kinds * width + projections * width**2
    block = 4 * width**2 + 2 * width * hidden + 2 * width
    sequence_encoder = positions * width + 2 * width + model.layers * block
    heads = 2 * width**2 + 1
    return Parameters(ids * model.id_width + ids, side + item_mlp + session_encoder + sequence_encoder + heads)


def flops_train(
    model: Model,
    loss: Loss,
    side_columns: int,
    feedback_kinds: int,
    positions: int,
    items: int,
    sessions: int,
    steps: int,
) -> float:
    """Training FLOPs (FLOPS_CONVENTION) of `steps` steps that saw `items` packed items in `sessions` sessions."""
    width, hidden = model.width, model.mlp_ratio * model.width
    embed = _item_mlp(model, _concatenated(model, side_columns))
    projections = feedback_kinds if model.session_encoder == "typed_mean" else 1
    block = 4 * width**2 + 2 * width * hidden + 2 * positions * width
    per_item = embed + 2 * width  # its score in either loss
    per_session = projections * width**2 + model.layers * block + 2 * width**2 + loss.negatives * width
    per_step = loss.negatives * embed
    return 3.0 * 2.0 * (items * per_item + sessions * per_session + steps * per_step)


def _concatenated(model: Model, side_columns: int) -> int:
    return model.id_width + side_columns * model.side_width


def _item_mlp(model: Model, concatenated: int) -> int:
    """Weights of the three matrices: in, out, and the linear path."""
    return 2 * concatenated * model.width + model.width**2
