"""SessionRec as two pure functions: `init(spec, key, catalogue) -> params`, `apply(...)` -> queries and embeddings.

Parameters are a plain nested dict. At the first step retrieval is the popularity baseline and the rank score the global
click rate: the heads start at zero, the item bias at the smoothed log popularity and the rank bias at the log odds of
the click rate. With `score="cosine"` the retrieval head starts at random values, because a query of length zero has no
direction to learn from.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from sessionrec_jax.data.catalogue import Catalogue
from sessionrec_jax.errors import InputError
from sessionrec_jax.model.dropout import Noise, kept_slots
from sessionrec_jax.model.embedding import ItemEmbedding, Side
from sessionrec_jax.model.facts import projection, vector
from sessionrec_jax.model.linear import linear
from sessionrec_jax.model.parametrization import readout_scales, width_ratio
from sessionrec_jax.model.sequence_encoder import SequenceEncoderModule
from sessionrec_jax.model.session_context import SessionContext
from sessionrec_jax.model.spec import Inputs, Params, Queries, Spec
from sessionrec_jax.registry import SESSION_ENCODERS

_GROWN_HEADS = 0.1
"""Size of a head, over that of a random initial matrix, from which on the prior has its full strength."""
HEAD_PARAMETERS = (projection("retrieval|rank"), vector("rank_bias|log_temperature"))


class SessionRec(nn.Module):
    """Scores item c after session t: retrieval q_t . e_c / temperature + bias_c, rank r_t . e_c + bias, with q and r
    projections of o_t. The paper scores o_t . e_c for both. Two projections are our choice, because the retrieval score
    carries popularity and the rank score must not (LOG.md). With `score="cosine"` q_t and the scored e_c have length
    one (our choice); the session encoder reads the e_c with their own length."""

    spec: Spec

    def setup(self) -> None:
        spec = self.spec
        self.item_embedding = ItemEmbedding(spec.model, spec.id_table_rows, spec.side_values, spec.vector_widths)
        session_encoder = SESSION_ENCODERS.find(spec.model.session_encoder).module
        self.session_encoder = session_encoder(spec.model, spec.feedback_kinds, spec.session_items)
        if spec.context_values:
            self.session_context = SessionContext(spec.model, spec.context_values)
        self.sequence_encoder = SequenceEncoderModule(spec.model, spec.max_positions)
        self.heads = Heads(spec)

    def embed(self, item_N: Int[Array, " N"], side: Side) -> Float[Array, "N D"]:
        """Returns the embeddings that score items."""
        return self._scored(self.item_embedding(item_N, side, scored=True))

    def _scored(self, e_ND: Float[Array, "N D"]) -> Float[Array, "N D"]:
        return unit_length(e_ND) if self.spec.model.score == "cosine" else e_ND

    def __call__(self, inputs: Inputs, side: Side, noise: Noise | None = None) -> tuple[Float[Array, "T D"], Queries]:
        """Returns the embeddings that score the batch's items, and the queries of its sessions."""
        user_RL = inputs.user_of_session_RL
        has_id_T = None
        if noise is not None and self.spec.model.id_dropout:
            has_id_RL = kept_slots(noise, self.spec.model.id_dropout, user_RL.shape[1])
            has_id_T = has_id_RL.reshape(-1).at[inputs.session_of_item_T].get(mode="fill", fill_value=True)
        e_TD = self.item_embedding(inputs.item_T, side, has_id_T)
        s_SD = self.session_encoder(e_TD, inputs.feedback_T, inputs.session_of_item_T, user_RL.size)
        s_RLD = s_SD.reshape(*user_RL.shape, -1)
        if self.spec.context_values:
            s_RLD = s_RLD + self.session_context(inputs.context).astype(s_RLD.dtype)
        o_RLD = self.sequence_encoder(
            s_RLD, user_RL, position_RL=inputs.position_RL, seconds_RL=inputs.seconds_RL, noise=noise
        )
        is_read_as_scored = has_id_T is None and not self.spec.model.scored_by
        scored_TD = self._scored(e_TD) if is_read_as_scored else self.embed(inputs.item_T, side)
        return scored_TD, self.heads(o_RLD.reshape(s_SD.shape))


class Heads(nn.Module):
    """The projections of o that score the items, and the biases of both scores."""

    spec: Spec

    @nn.compact
    def __call__(self, o_SD: Float[Array, "S D"]) -> Queries:
        model, cosine = self.spec.model, self.spec.model.score == "cosine"
        init = nn.initializers.lecun_normal() if cosine else nn.initializers.zeros
        retrieval_SD = linear(self, "retrieval", o_SD, model.width, init=init)
        rank_SD = linear(self, "rank", o_SD, model.width, init=nn.initializers.zeros)
        self.param("item_bias", nn.initializers.zeros, (self.spec.rows,))
        self.param("rank_bias", nn.initializers.zeros, ())
        log_temperature = math.log(model.temperature)
        if model.temperature_learned:
            log_temperature = self.param("log_temperature", nn.initializers.constant(log_temperature), ())
        if cosine:
            retrieval_SD = unit_length(retrieval_SD)
        retrieval_scale, rank_scale = readout_scales(model)
        retrieval_SD = retrieval_SD * (jnp.exp(-log_temperature) * retrieval_scale)
        return Queries(retrieval_SD.astype(o_SD.dtype), rank_SD * rank_scale)


def unit_length(x_ND: Float[Array, "N D"]) -> Float[Array, "N D"]:
    """Divides each row by its Euclidean length. A row shorter than 1e-6 becomes zero, with gradient zero."""
    square_N1 = jnp.sum(x_ND.astype(jnp.float32) ** 2, axis=1, keepdims=True)
    long_N1 = square_N1 > 1e-12
    scale_N1 = jax.lax.rsqrt(jnp.where(long_N1, square_N1, 1.0))
    return jnp.where(long_N1, x_ND * scale_N1, 0.0).astype(x_ND.dtype)


def init(spec: Spec, key: Array, catalogue: Catalogue) -> Params:
    """Returns the parameters as a nested dict of float32 arrays, with both biases at the popularity baseline. Raises
    InputError as `popularity` does."""
    return init_with_biases(spec, key, popularity(spec, catalogue))


def popularity(spec: Spec, catalogue: Catalogue) -> dict[str, np.ndarray]:
    """Returns the initial values of the two biases: the log odds of a click, and the log popularity of every row of the
    item tables.

    Raises InputError if items would have neither an ID table nor side information.
    """
    if not (spec.side_values or spec.vector_widths or spec.model.id_width):
        raise InputError(
            "--model.id-width is 0 and the log has no side information, so all items look the same; "
            "use --model.id-width 32, or prepare the log with an item table"
        )
    rate = np.clip(catalogue.click_rate, 1e-6, 1 - 1e-6)
    log_popularity_V = np.maximum(catalogue.log_popularity_V, -1e4)
    return {
        "item_bias": np.pad(log_popularity_V, (0, spec.rows - spec.ids), constant_values=-1e4).astype(np.float32),
        "rank_bias": np.float32(np.log(rate / (1 - rate))),
    }


def init_with_biases(spec: Spec, key: Array, biases: dict[str, Any]) -> Params:
    """Returns random parameters, except for the given biases of the heads."""
    params = init_params(spec, key)
    return params | {"heads": params["heads"] | {name: jnp.asarray(x) for name, x in biases.items()}}


@functools.partial(jax.jit, static_argnums=0)
def init_params(spec: Spec, key: Array) -> Params:
    """Returns random parameters; the same key gives the same bits on every mesh."""
    one = jnp.zeros((1,), jnp.int32)
    slots = jnp.zeros((1, spec.max_positions), jnp.int32)
    inputs = Inputs(
        item_T=one,
        feedback_T=one,
        session_of_item_T=one,
        user_of_session_RL=slots,
        position_RL=slots,
        seconds_RL=slots,
        context={name: slots for name, _ in spec.context_values},
    )
    side: Side = {name: jnp.zeros((spec.ids, 1), jnp.int32) for name, _ in spec.side_values}
    side |= {name: jnp.zeros((spec.ids, width)) for name, width in spec.vector_widths}
    return SessionRec(spec).init(key, inputs, side)["params"]


def apply(
    spec: Spec, params: Params, inputs: Inputs, side: Side, noise: Noise | None = None
) -> tuple[Float[Array, "T D"], Queries]:
    """Returns the embeddings of the batch's items and the queries of its sessions, for one shard. `noise`: for dropout,
    in training only. Raises ValueError if items share rows of the ID table."""
    _check_own_rows(spec)
    return SessionRec(spec).apply({"params": params}, inputs, side, noise)


def embed(spec: Spec, params: Params, item_N: Int[Array, " N"], side: Side) -> Float[Array, "N D"]:
    """Returns the embeddings that score any items, candidates or negatives. Raises ValueError if items share rows of
    the ID table."""
    _check_own_rows(spec)
    return SessionRec(spec).apply({"params": params}, item_N, side, method="embed")


def _check_own_rows(spec: Spec) -> None:
    if spec.id_rows:  # an id past the shared rows would silently read the last one
        raise ValueError("items share rows of the ID table; give each its own first (devices/gathered_rows.py)")


def heads_share(spec: Spec, params: Params) -> Float[Array, ""]:
    """Returns how far the heads have grown from zero, from 0 to 1: the sum of their mean squares over that of a matrix
    that is a tenth of a random initial one, at most 1. Under mup that matrix shrinks as the heads' steps do."""
    heads, width = params["heads"], spec.model.width
    mean_square = jnp.mean(heads["retrieval"] ** 2) + jnp.mean(heads["rank"] ** 2)
    return jnp.minimum(1.0, mean_square * (width * width_ratio(spec.model) / _GROWN_HEADS**2))


def id_table_norm(params: Params) -> Float[Array, ""]:
    """Returns the squared norm of the ID table; zero for a model without one."""
    table_VE = params["item_embedding"].get("item_table")
    return jnp.zeros(()) if table_VE is None else jnp.sum(table_VE**2)
