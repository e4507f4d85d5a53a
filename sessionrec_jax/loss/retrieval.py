"""L_retrieval: each clicked item of a target session against the whole catalogue, or against a sample of it.

The score of item i after a session is s_i = q . e_i + bias_i. Each loss returns the summed nats of one shard and the
number of terms, which is the number of its clicked items. With `other_clicks="masked"` the other clicked items of the
target session are not negatives.

Letters: T items, S session slots, N negatives, C items of a chunk, K chunks, R rows, V ids, D width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sessionrec_jax.config.settings import Loss
from sessionrec_jax.loss.negatives import Negatives
from sessionrec_jax.loss.targets import Targets, own_products

NatsAndTerms = tuple[Float[Array, ""], Float[Array, ""]]
Embed = Callable[[Int[Array, " N"]], Float[Array, "N D"]]
"""Returns the embeddings of items; differentiable in the parameters that it closes over."""


class Scorer(NamedTuple):
    """Gives each item its score after each session."""

    queries_SD: Float[Array, "S D"]
    item_bias_V: Float[Array, " V"]

    def scores(self, item_N: Int[Array, " N"], e_ND: Float[Array, "N D"]) -> Float[Array, "S N"]:
        """Returns the score of every item after every session."""
        products_SN = jnp.einsum("SD,ND->SN", self.queries_SD, e_ND, preferred_element_type=jnp.float32)
        return products_SN + self.item_bias_V[item_N]


class ShardItems(NamedTuple):
    """The items of one shard's batch."""

    item_T: Int[Array, " T"]
    """Place of each item among the rows of the scorer."""
    e_TD: Float[Array, "T D"]
    targets: Targets
    id_T: Int[Array, " T"] | None = None
    """Dense ids. None: the places are the ids."""


class SampledItems(NamedTuple):
    """The items of one step's sample, which all sessions share."""

    negatives: Negatives
    e_ND: Float[Array, "N D"]
    log_q_V: Float[Array, " V"]
    """Log probability of each row's item in the distribution that negatives are drawn from."""
    place_N: Int[Array, " N"] | None = None
    """Place of each negative among these rows; any for the fill. None: the ids are the places."""

    @property
    def rows_N(self) -> Int[Array, " N"]:
        """The row of each negative, and some row for the fill."""
        return jnp.minimum(self.negatives.item_N, len(self.log_q_V) - 1) if self.place_N is None else self.place_N


class CatalogueRows(NamedTuple):
    """A part of the catalogue: consecutive rows of the item tables."""

    embed: Embed
    """Takes places among these rows."""
    item_bias_R: Float[Array, " R"]
    first: Int[Array, ""] | int
    """Dense id of the first row."""
    ids: int
    """Number of ids in the whole catalogue; rows from there on are not items."""


_CHUNK_ITEMS = 4_096
"""The full softmax holds the scores of this many items after every session of a shard at once."""


def sampled_softmax_sums(config: Loss, scorer: Scorer, items: ShardItems, sampled: SampledItems) -> NatsAndTerms:
    """Sampled softmax with logQ correction, one term for each clicked item i of each target session:

        -log [ exp(s_i - log Q_i) / (exp(s_i - log Q_i) + sum_j exp(s_j - log Q_j)) ],  j the shared draws.

    (Jean et al. 1412.2007; its optimum is the true distribution for any number of negatives, Ma & Collins 1809.01812.)
    Without `log_q` the two log Q are left out, and the optimum is the true distribution over Q.
    """
    negatives, targets = sampled.negatives, items.targets
    log_q_V = sampled.log_q_V if config.log_q else jnp.zeros_like(sampled.log_q_V)
    log_weight_N = jnp.log(negatives.times_N) - _log_q(sampled, log_q_V)
    score_SN = scorer.scores(sampled.rows_N, sampled.e_ND) + log_weight_N
    if config.other_clicks == "masked":
        place_T, found_T = _find(negatives, items)
        score_SN = _at_own_clicks(score_SN, -jnp.inf, targets, place_T=place_T, found_T=found_T)
    positive_T = _own_scores(scorer, items) - log_q_V[items.item_T]
    return _softmax_sums(positive_T, _logsumexp(score_SN), targets)


def bce_sums(config: Loss, scorer: Scorer, items: ShardItems, sampled: SampledItems) -> NatsAndTerms:
    """Logistic loss of the click and of each of the n draws, one term for each clicked item i of each target session:

        log(1 + exp(-d_i)) + sum_j w log(1 + exp(d_j)).

    With `log_q` d = s - log(n Q) and w = 1: noise-contrastive estimation (Gutmann & Hyvärinen 2010; for softmax models
    Mnih & Teh 1206.6426), whose optimum is s = the true log probability, normalised by itself. Without, d = s and
    w = 1 / n: SASRec's loss (Kang & McAuley 1808.09781, equation 6) with the mean over n negatives for its single one.
    """
    negatives, targets, log_q_V = sampled.negatives, items.targets, sampled.log_q_V
    score_SN = scorer.scores(sampled.rows_N, sampled.e_ND)
    positive_T = _own_scores(scorer, items)
    weight_N = negatives.times_N
    if config.log_q:
        score_SN -= jnp.log(config.negatives) + _log_q(sampled, log_q_V)
        positive_T -= jnp.log(config.negatives) + log_q_V[items.item_T]
    else:
        weight_N /= config.negatives
    weight_SN = jnp.broadcast_to(weight_N, score_SN.shape)
    if config.other_clicks == "masked":
        place_T, found_T = _find(negatives, items)
        weight_SN = _at_own_clicks(weight_SN, 0.0, targets, place_T=place_T, found_T=found_T)
    noise_S = jnp.einsum("SN,SN->S", weight_SN, jax.nn.softplus(score_SN))
    positive_T = jnp.where(targets.clicked_T, positive_T, 0.0)  # padding has log Q = -inf
    return _sums(jax.nn.softplus(-positive_T) + noise_S[targets.query_T], targets)


def full_softmax_sums(config: Loss, scorer: Scorer, items: ShardItems, log_sum_S: Float[Array, " S"]) -> NatsAndTerms:
    """Softmax over the whole catalogue, one term for each clicked item i of each target session:

        -log [ exp(s_i) / sum_j exp(s_j) ],  j every item; masked: i and every item that the session did not click.

    `log_sum_S` is the log of the sum over j after each session, from `catalogue_log_sum`.
    """
    positive_T = _own_scores(scorer, items)
    if config.other_clicks == "masked":
        return _softmax_sums(positive_T, log_sum_S, items.targets)
    return _sums(log_sum_S[items.targets.query_T] - positive_T, items.targets)


def catalogue_log_sum(
    config: Loss,
    queries_SD: Float[Array, "S D"],
    item_T: Int[Array, " T"],
    targets: Targets,
    rows: CatalogueRows,
    chunk_items: int = _CHUNK_ITEMS,
) -> Float[Array, " S"]:
    """Returns log sum_j exp(s_j) over the items of `rows`; masked: without those that the next session clicked.

    Items are embedded and scored chunk by chunk, and again in the backward pass, so that memory grows with
    S x `chunk_items` and not with S x V. If `rows` has no item, the result is far below any score.
    """
    held = rows.item_bias_R.shape[0]
    chunks = -(-held // chunk_items)
    size = -(-held // chunks)  # even chunks, so that the last one is not mostly empty
    scorer = Scorer(queries_SD, rows.item_bias_R)

    @functools.partial(jax.checkpoint, prevent_cse=False)  # inside a loop XLA cannot merge the two computations anyway
    def log_sum_of_chunk(start: Int[Array, ""]) -> Float[Array, " S"]:
        place_C = start + jnp.arange(size)
        known_C = jnp.minimum(place_C, held - 1)
        score_SC = scorer.scores(known_C, rows.embed(known_C))
        item_C = rows.first + place_C
        score_SC = jnp.where((place_C < held) & (item_C > 0) & (item_C < rows.ids), score_SC, -jnp.inf)
        if config.other_clicks == "masked":
            place_T = item_T - rows.first - start
            found_T = (place_T >= 0) & (place_T < size)
            score_SC = _at_own_clicks(score_SC, -jnp.inf, targets, place_T=place_T, found_T=found_T)
        return _logsumexp(score_SC)

    log_sum_KS = jax.lax.map(log_sum_of_chunk, size * jnp.arange(chunks))
    return _logsumexp(log_sum_KS.T)


def _own_scores(scorer: Scorer, items: ShardItems) -> Float[Array, " T"]:
    """Returns the score of each item after the session before its own."""
    return own_products(scorer.queries_SD, items.e_TD, items.targets) + scorer.item_bias_V[items.item_T]


def _log_q(sampled: SampledItems, log_q_V: Float[Array, " V"]) -> Float[Array, " N"]:
    """Returns log Q of the negatives; zero for the fill, whose weight is zero."""
    return jnp.where(sampled.negatives.times_N > 0, log_q_V[sampled.rows_N], 0.0)


def _find(negatives: Negatives, items: ShardItems) -> tuple[Int[Array, " T"], Bool[Array, " T"]]:
    """Returns the place of each item among the negatives, and whether it is one of them."""
    id_T = items.item_T if items.id_T is None else items.id_T
    place_T = jnp.clip(jnp.searchsorted(negatives.item_N, id_T), 0, negatives.item_N.shape[0] - 1)
    return place_T, negatives.item_N[place_T] == id_T


def _at_own_clicks(
    x_SN: Float[Array, "S N"], value: float, targets: Targets, *, place_T: Int[Array, " T"], found_T: Bool[Array, " T"]
) -> Float[Array, "S N"]:
    """Returns `x_SN` with `value` wherever the candidate is a clicked item of the session's target."""
    row_T = jnp.where(targets.clicked_T & found_T, targets.query_T, x_SN.shape[0])  # past the end: dropped below
    # A mask has no gradient; that of a scatter of values would be a second scatter and a sort.
    is_own_SN = jnp.zeros(x_SN.shape, bool).at[row_T, place_T].set(True, mode="drop")
    return jnp.where(is_own_SN, value, x_SN)


def _softmax_sums(
    positive_T: Float[Array, " T"], log_negatives_S: Float[Array, " S"], targets: Targets
) -> NatsAndTerms:
    """Sums -log of the positive's share of itself and the negatives."""
    positive_T = jnp.where(targets.clicked_T, positive_T, 0.0)  # padding has log Q = -inf
    return _sums(jnp.logaddexp(positive_T, log_negatives_S[targets.query_T]) - positive_T, targets)


def _sums(nats_T: Float[Array, " T"], targets: Targets) -> NatsAndTerms:
    return jnp.sum(nats_T, where=targets.clicked_T), jnp.sum(targets.clicked_T, dtype=jnp.float32)


def _logsumexp(x_SN: Float[Array, "S N"]) -> Float[Array, " S"]:
    """Returns a finite number for a row that is all -inf, so that its gradient is zero and not NaN."""
    top_S1 = jax.lax.stop_gradient(jnp.maximum(x_SN.max(axis=1, keepdims=True), -1e30))
    return jnp.log(jnp.sum(jnp.exp(x_SN - top_S1), axis=1) + 1e-30) + top_S1[:, 0]
