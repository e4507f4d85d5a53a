"""Parameters by group and training FLOPs in closed form, from the shapes alone (no jax).

`body`: everything that does not grow with the number of items, side-information tables included. `item_table`: the ID
table and the item bias. A law in N must say which it means; both are columns of every row.
"""

from __future__ import annotations

from dataclasses import dataclass

from sessionrec_jax.config.settings import Loss, Model

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
    model: Model,
    ids: int,
    side_values: tuple[tuple[str, int], ...],
    feedback_kinds: int,
    positions: int,
    id_rows: int = 0,
    context_values: tuple[tuple[str, int], ...] = (),
) -> Parameters:
    """Trained parameters. `ids` = items + 1; `side_values`, `context_values`: number of values of each column of items
    and of session context; `id_rows`: of the ID table where items share them, 0 where each has its own."""
    width = model.width
    side = sum((values + 1) * model.side_width for _, values in side_values)
    item_mlp = _item_mlp(model, _concatenated(model, len(side_values))) + width  # its bias
    context = sum((values + 1) * width for _, values in context_values)
    heads = 2 * width**2 + 1 + model.temperature_learned
    body = side + item_mlp + _session_encoder(model, feedback_kinds) + context
    body += _sequence_encoder(model, positions) + heads
    return Parameters((id_rows or ids) * model.id_width + ids, body)


def _session_encoder(model: Model, feedback_kinds: int) -> int:
    """The feedback embedding, the projection (one a kind of typed_mean), and what the variant adds to them."""
    width, hidden = model.width, model.mlp_ratio * model.width
    projections = feedback_kinds if model.session_encoder == "typed_mean" else 1
    mlp = (3 if model.mlp == "swiglu" else 2) * width * hidden
    added = {"sum": width, "attention": width * model.heads, "transformer": 4 * width**2 + mlp + 2 * width}
    return feedback_kinds * width + projections * width**2 + added.get(model.session_encoder, 0)


def _sequence_encoder(model: Model, positions: int) -> int:
    width, time_buckets = model.width, 64
    if model.sequence_encoder == "gru":
        block = _layer_matrices(model) + 3 * width + width  # the gates' bias and a norm
    else:
        block = _layer_matrices(model) + 2 * width  # two norms
    if model.places == "relative_time":
        block += model.heads * (positions + time_buckets)
    position = positions * width if model.places == "learned" else 0
    return position + 2 * width + model.layers * block


def _layer_matrices(model: Model) -> int:
    """Weights of a layer's matrices, each of which every session is multiplied by once."""
    if model.sequence_encoder == "gru":
        return 6 * model.width**2
    if model.sequence_encoder == "hstu":
        return 5 * model.width**2
    mlp = 3 if model.mlp == "swiglu" else 2
    return 4 * model.width**2 + mlp * model.mlp_ratio * model.width**2


def flops_train(
    model: Model,
    loss: Loss,
    side_columns: int,
    feedback_kinds: int,
    positions: int,
    session_items: int,
    ids: int,
    items: int,
    sessions: int,
    steps: int,
) -> float:
    """Training FLOPs (FLOPS_CONVENTION) of `steps` steps that saw `items` packed items in `sessions` sessions.

    `session_items`: most exposures of a session; `ids` = items of the catalogue + 1.
    """
    candidates = ids if loss.retrieval == "full_softmax" else loss.negatives
    embed = _item_mlp(model, _concatenated(model, side_columns))
    of_session_encoder = _session_encoder_multiplications(model, feedback_kinds, session_items)
    losses = 2 if loss.alpha else 1  # each has a query of every session, and the score of every item
    passes = 2 if model.id_dropout or model.scored_by else 1  # as it is read, and as it is scored
    per_item = passes * embed + losses * model.width + of_session_encoder[0]
    per_session = of_session_encoder[1] + model.layers * _layer_multiplications(model, positions)
    per_session += losses * model.width**2 + candidates * model.width
    return 3.0 * 2.0 * (items * per_item + sessions * per_session + steps * candidates * embed)


def _session_encoder_multiplications(model: Model, feedback_kinds: int, session_items: int) -> tuple[int, int]:
    """Of an item, and of a session. Pooling multiplies no matrices. An item's attention is counted as it is computed:
    its logits and its weighted sum run over three blocks, each of as many items as the longest session has (8 or more,
    `model.segment.LEAST_BLOCK`), however few items its own session has."""
    width, hidden = model.width, model.mlp_ratio * model.width
    projections = feedback_kinds if model.session_encoder == "typed_mean" else 1
    matrices = 4 * width**2 + (3 if model.mlp == "swiglu" else 2) * width * hidden
    attention = 2 * 3 * max(session_items, 8) * width
    of_item = {"attention": width * model.heads, "transformer": matrices + attention}
    return of_item.get(model.session_encoder, 0), projections * width**2


def _layer_multiplications(model: Model, positions: int) -> int:
    """Of a session in one layer of the sequence encoder. Attention is counted over all `positions` slots of the row:
    those that the mask leaves out are multiplied too."""
    attention = 0 if model.sequence_encoder == "gru" else 2 * positions * model.width
    return _layer_matrices(model) + attention


def _concatenated(model: Model, side_columns: int) -> int:
    return model.id_width + side_columns * model.side_width


def _item_mlp(model: Model, concatenated: int) -> int:
    """Weights of the three matrices: in, out, and the linear path."""
    return 2 * concatenated * model.width + model.width**2
