"""The exact rank loss of a model on the known process: a sum over all histories instead of a mean over test sessions.

It exists where a history is one anchor and an item's score depends on its category alone: there are then K x C cases,
and every one is computed. Its only error is float32 rounding, so small differences between models can be read.
"""

from __future__ import annotations

import functools

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from sessionrec_jax.config.settings import Config
from sessionrec_jax.data.synthetic.device import process_tables
from sessionrec_jax.data.synthetic.known import dense_ids, known_truth
from sessionrec_jax.data.synthetic.truth import bernoulli_kl
from sessionrec_jax.devices.gathered_rows import with_own_rows
from sessionrec_jax.devices.placement import put_replicated, put_side
from sessionrec_jax.evaluation.trained_model import TrainedModel
from sessionrec_jax.model import sessionrec
from sessionrec_jax.model.anchor_inputs import anchor_inputs
from sessionrec_jax.model.embedding import Side
from sessionrec_jax.model.spec import Params, Spec

_ANCHORS_AT_A_TIME = 8_192


def has_exact_rank_loss(config: Config) -> bool:
    """Returns True for a model that reads one anchor and scores items by category, with a calibrated rank loss."""
    model, loss = config.model, config.loss
    reads_anchor = not (model.clicked_in_input or model.ignored_in_input) and config.data.slots == 2
    is_nspp = config.paradigm == "nspp" and not config.data.session_context
    return is_nspp and reads_anchor and model.scored_by == ("category",) and loss.rank == "pointwise" and loss.alpha > 0


def exact_rank_nats(model: TrainedModel) -> float | None:
    """Returns the expected rank loss of an exposure of the next session, in nats; None where it is not a finite sum, or
    the truth is not known."""
    truth = known_truth(model.log)
    if truth is None or not has_exact_rank_loss(model.config):
        return None
    dense_K = dense_ids(model.log, truth.process.item_count)
    tables = process_tables(truth, dense_K)
    logits = _category_logits(model, dense_K, tables.shown_C)
    probability_KC = 1 / (1 + np.exp(-logits))
    excess_KC = bernoulli_kl(truth.click_probability_ZC, probability_KC)
    return truth.rank_floor_nats_per_exposure + float(truth.popularity_K @ excess_KC @ truth.category_mass_C)


def _category_logits(model: TrainedModel, anchor_K: np.ndarray, shown_C: Array) -> Float[np.ndarray, "K C"]:
    spec = model.spec.in_float32
    side = put_side(model.catalogue.side, spec.rows, model.mesh)
    spec, params = with_own_rows(spec, model.mesh, model.params, side)
    shown_C = put_replicated(shown_C, model.mesh)
    parts = []
    for first in range(0, len(anchor_K), _ANCHORS_AT_A_TIME):
        anchor_S = anchor_K[first : first + _ANCHORS_AT_A_TIME].astype(np.int32)
        padded_S = put_replicated(np.pad(anchor_S, (0, _ANCHORS_AT_A_TIME - len(anchor_S))), model.mesh)
        logits = jax.device_get(_logits(spec, params, side, padded_S, shown_C))
        parts.append(logits[: len(anchor_S)].astype(np.float64))
    return np.concatenate(parts)


@functools.partial(jax.jit, static_argnums=0)
def _logits(
    spec: Spec, params: Params, side: Side, anchor_S: Int[Array, " S"], shown_C: Int[Array, " C"]
) -> Float[Array, "S C"]:
    inputs = anchor_inputs(anchor_S[:, None])
    query_SD = sessionrec.apply(spec, params, inputs, side)[1].rank_SD
    return query_SD @ sessionrec.embed(spec, params, shown_C, side).T + params["heads"]["rank_bias"]
