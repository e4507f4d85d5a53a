"""Parameters by group and training FLOPs in closed form, from the shapes alone.

`body` is everything that does not grow with the number of items, with the side-information tables and the maps of
content vectors. `item_table` is the ID table and the item bias. The content vectors are not trained, and are counted
apart. A law in N must say which one N means; both are columns of every row.
"""

from __future__ import annotations

from dataclasses import dataclass

from sessionrec_jax.config.settings import Loss
from sessionrec_jax.model import sequence_encoder
from sessionrec_jax.model.session_encoder import SessionEncoderCost
from sessionrec_jax.model.spec import Spec
from sessionrec_jax.registry import SESSION_ENCODERS

FLOPS_CONVENTION = (
    "matmul, 2 per multiply-add, backward = 2 x forward, packed items and sessions only, no recomputation"
)

_PER_SCORE = 48
"""Multiply-adds in the time of which two CPU cores take an exponential and compare with an item or two (LOG.md)."""


@dataclass(frozen=True)
class Parameters:
    """Numbers of trained parameters, and of the numbers that are read and not trained."""

    item_table: int
    body: int
    frozen: int
    """Numbers of the content vectors of all items."""

    @property
    def total(self) -> int:
        return self.item_table + self.body


def parameters(spec: Spec) -> Parameters:
    """Returns the number of trained parameters. Rows that only pad the item tables do not count."""
    model, width = spec.model, spec.model.width
    side = sum((values + 1) * model.side_width for _, values in spec.side_values)
    item_mlp = _item_mlp(spec) + width  # its bias
    context = sum((values + 1) * width for _, values in spec.context_values)
    heads = 2 * width**2 + 1 + model.temperature_learned
    feedback = spec.feedback_kinds * width
    body = side + item_mlp + feedback + _session_cost(spec).parameters + context
    body += sequence_encoder.cost(model, spec.max_positions).parameters + heads
    frozen = (spec.ids - 1) * sum(vector_width for _, vector_width in spec.vector_widths)
    return Parameters((spec.id_rows or spec.ids) * model.id_width + spec.ids, body, frozen)


def flops_train(spec: Spec, loss: Loss, *, items: int, sessions: int, steps: int) -> float:
    """Returns the training FLOPs (FLOPS_CONVENTION) of `steps` steps that saw `items` packed items in `sessions`
    sessions."""
    model, session = spec.model, _session_cost(spec)
    candidates = {"full_softmax": spec.ids, "none": 0}.get(loss.retrieval, loss.negatives)
    embed, scored = _item_mlp(spec), _item_mlp(spec, scored=True)
    losses = (loss.retrieval != "none") + (loss.alpha > 0)  # each has a query of every session, a score of every item
    twice = bool(model.id_dropout or model.scored_by)  # an item as the model reads it, and as it is scored
    per_item = embed + twice * scored + losses * model.width + session.per_item
    per_session = session.per_session + sequence_encoder.cost(model, spec.max_positions).multiplications
    per_session += losses * model.width**2 + candidates * model.width
    return 3.0 * 2.0 * (items * per_item + sessions * per_session + steps * candidates * scored)


def flops_evaluate(spec: Spec, *, items: int, sessions: int, scored: int) -> float:
    """Returns the FLOPs of encoding `items` items in `sessions` sessions, and of scoring the whole catalogue for
    `scored` sessions. The exponential and the comparisons of a score count as `_PER_SCORE` multiply-adds."""
    session = _session_cost(spec)
    per_session = session.per_session + sequence_encoder.cost(spec.model, spec.max_positions).multiplications
    per_session += 2 * spec.model.width**2
    encoded = items * (_item_mlp(spec) + session.per_item) + sessions * per_session
    return 2.0 * (encoded + scored * spec.ids * (spec.model.width + _PER_SCORE))


def flops_train_fresh(spec: Spec, *, sessions: int, steps: int, categories: int) -> float:
    """Returns the training FLOPs of steps on sessions drawn on the device: each reads its anchor, and its query scores
    every category. The embeddings of the categories are computed once a step."""
    model, session, embed = spec.model, _session_cost(spec), _item_mlp(spec)
    per_session = embed + session.per_item + session.per_session
    per_session += sequence_encoder.cost(model, spec.max_positions).multiplications
    per_session += model.width**2 + categories * model.width
    return 3.0 * 2.0 * (sessions * per_session + steps * categories * embed)


def _session_cost(spec: Spec) -> SessionEncoderCost:
    encoder = SESSION_ENCODERS.find(spec.model.session_encoder)
    return encoder.cost(spec.model, spec.feedback_kinds, spec.session_items)


def _item_mlp(spec: Spec, *, scored: bool = False) -> int:
    """Weights of the item MLP's three matrices, in, out, and the linear path, and of the maps of content vectors.
    `scored`: for scoring, so that vectors that `scored_by` does not name are not mapped."""
    model = spec.model
    concatenated = model.id_width + (len(spec.side_values) + len(spec.vector_widths)) * model.side_width
    # By the convention a map goes backward twice, though XLA leaves out the gradient of the vectors themselves.
    left_out = scored and model.scored_by
    widths = (width for name, width in spec.vector_widths if not left_out or name in model.scored_by)
    maps = sum(widths) * model.side_width
    return 2 * concatenated * model.width + model.width**2 + maps
