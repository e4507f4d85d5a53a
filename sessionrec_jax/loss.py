"""L = L_retrieval + alpha * L_rank (paper) as sums and counts over one shard; what the paper leaves open is our choice.

The label of session slot n is the content of slot n + 1 of the same user, so for item i the query is slot
session_of_item[i] - 1. Letters: T items, S session slots, N negatives, V ids, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from sessionrec_jax.config import Loss
from sessionrec_jax.data.batches import CLICKED
from sessionrec_jax.data.catalogue import Catalogue
from sessionrec_jax.model.sessionrec import Queries


class Sums(NamedTuple):
    """Nats and the number of terms they were summed over; the loss is their ratio, taken once over all shards."""

    retrieval_nats: Float[Array, ""]
    clicked_items: Float[Array, ""]
    rank_nats: Float[Array, ""]
    exposures: Float[Array, ""]

    def objective(self, alpha: float) -> Float[Array, ""]:
        """L_retrieval (nats per clicked item) + alpha * L_rank (nats per exposure)."""
        return self.retrieval_nats / jnp.maximum(self.clicked_items, 1) + alpha * self.rank_nats / jnp.maximum(
            self.exposures, 1
        )


class Targets(NamedTuple):
    """What of one shard is scored; see `targets`."""

    query_T: Int[Array, " T"]
    """Slot of the session before the item's."""
    clicked_T: Bool[Array, " T"]
    """Label of the retrieval loss: a clicked item of a target session."""
    exposed_T: Bool[Array, " T"]
    """Term of the rank loss: a clicked or ignored item of a target session."""


def targets(feedback_T: Int[Array, " T"], session_of_item_T: Int[Array, " T"], target_S: Bool[Array, " S"]) -> Targets:
    """Context (feedback 2 and up) and padding are neither labels nor negatives."""
    in_target_T = target_S.at[session_of_item_T].get(mode="fill", fill_value=False)
    return Targets(
        query_T=jnp.maximum(session_of_item_T - 1, 0),
        clicked_T=in_target_T & (feedback_T == CLICKED),
        exposed_T=in_target_T & (feedback_T <= CLICKED),
    )


class Proposal(NamedTuple):
    """Distribution of the sampled negatives: part uniform, part the smoothed popularity."""

    log_q_V: Float[Array, " V"]
    cumulative_V: Float[Array, " V"]


def proposal(config: Loss, catalogue: Catalogue) -> Proposal:
    popularity_V = np.exp(catalogue.log_popularity_V.astype(np.float64))
    q_V = config.negatives_uniform / catalogue.items + (1 - config.negatives_uniform) * popularity_V
    q_V[0] = 0.0
    with np.errstate(divide="ignore"):
        return Proposal(np.log(q_V / q_V.sum()).astype(np.float32), np.cumsum(q_V / q_V.sum()).astype(np.float32))


class Negatives(NamedTuple):
    """Distinct sampled items in ascending order, filled up with ids past the catalogue."""

    item_N: Int[Array, " N"]
    log_weight_N: Float[Array, " N"]
    """log(times drawn) - log Q; -inf for the fill."""


def sample_negatives(key: Array, proposal: Proposal, negatives: int) -> Negatives:
    """`negatives` draws with replacement, the same on every device because the key is. Equal draws are merged into one
    with their count as weight, which changes no loss and lets an accidental hit be found by binary search."""
    ids = proposal.log_q_V.shape[0]
    draw_N = jax.random.uniform(key, (negatives,))
    item_N = jnp.clip(jnp.searchsorted(proposal.cumulative_V, draw_N, side="right"), 1, ids - 1)
    item_N, times_N = jnp.unique(item_N, return_counts=True, size=negatives, fill_value=ids)
    log_q_N = proposal.log_q_V.at[item_N].get(mode="fill", fill_value=0.0)
    return Negatives(item_N, jnp.where(item_N < ids, jnp.log(times_N.astype(jnp.float32)) - log_q_N, -jnp.inf))


def retrieval_sums(
    config: Loss,
    queries_SD: Float[Array, "S D"],
    e_TD: Float[Array, "T D"],
    item_T: Int[Array, " T"],
    targets: Targets,
    item_bias_V: Float[Array, " V"],
    log_q_V: Float[Array, " V"],
    negatives: Negatives,
    e_ND: Float[Array, "N D"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Sampled softmax with logQ correction, one term for each clicked item i of each target session:

        -log [ exp(s_i - log Q_i) / (exp(s_i - log Q_i) + sum_j exp(s_j - log Q_j)) ],  j the shared negatives.

    (Jean et al. 1412.2007; its optimum is the true distribution for any number of negatives, Ma & Collins 1809.01812.)
    With `other_clicks="masked"` the clicked items of the target session are taken out of the negatives j.
    Returns summed nats and the number of terms.
    """
    score_SN = queries_SD @ e_ND.T + item_bias_V[negatives.item_N] + negatives.log_weight_N
    if config.other_clicks == "masked":
        place_T = jnp.clip(jnp.searchsorted(negatives.item_N, item_T), 0, negatives.item_N.shape[0] - 1)
        hit_T = targets.clicked_T & (negatives.item_N[place_T] == item_T)
        row_T = jnp.where(hit_T, targets.query_T, score_SN.shape[0])  # misses fall outside and are dropped
        score_SN = score_SN.at[row_T, place_T].set(-jnp.inf, mode="drop")
    log_negatives_S = _logsumexp(score_SN)
    positive_T = jnp.einsum("TD,TD->T", queries_SD[targets.query_T], e_TD) + item_bias_V[item_T] - log_q_V[item_T]
    positive_T = jnp.where(targets.clicked_T, positive_T, 0.0)  # padding has log Q = -inf
    nats_T = jnp.logaddexp(positive_T, log_negatives_S[targets.query_T]) - positive_T
    return jnp.sum(nats_T, where=targets.clicked_T), jnp.sum(targets.clicked_T, dtype=jnp.float32)


def _logsumexp(x_SN: Float[Array, "S N"]) -> Float[Array, " S"]:
    """Finite where a row is all -inf, so that its gradient is zero and not NaN."""
    top_S1 = jax.lax.stop_gradient(jnp.maximum(x_SN.max(axis=1, keepdims=True), -1e30))
    return jnp.log(jnp.sum(jnp.exp(x_SN - top_S1), axis=1) + 1e-30) + top_S1[:, 0]


def rank_logits(
    queries_SD: Float[Array, "S D"], e_TD: Float[Array, "T D"], targets: Targets, rank_bias: Float[Array, ""]
) -> Float[Array, " T"]:
    """Log odds that an exposure is clicked; meaningful where `targets.exposed_T` holds."""
    return jnp.einsum("TD,TD->T", queries_SD[targets.query_T], e_TD) + rank_bias


def rank_sums(logit_T: Float[Array, " T"], targets: Targets) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Pointwise binary cross-entropy over the target session's exposures: its clicked items against its own ignored
    ones. Calibrated, so that its floor is the entropy of the clicks. Returns summed nats and the number of terms."""
    nats_T = jax.nn.softplus(jnp.where(targets.clicked_T, -logit_T, logit_T))
    return jnp.sum(nats_T, where=targets.exposed_T), jnp.sum(targets.exposed_T, dtype=jnp.float32)


def session_loss(
    config: Loss,
    queries: Queries,
    e_TD: Float[Array, "T D"],
    item_T: Int[Array, " T"],
    targets: Targets,
    heads: dict[str, Array],
    log_q_V: Float[Array, " V"],
    negatives: Negatives,
    e_ND: Float[Array, "N D"],
) -> Sums:
    """Both losses of one shard."""
    retrieval = retrieval_sums(
        config, queries.retrieval_SD, e_TD, item_T, targets, heads["item_bias"], log_q_V, negatives, e_ND
    )
    rank = rank_sums(rank_logits(queries.rank_SD, e_TD, targets, heads["rank_bias"]), targets)
    return Sums(*retrieval, *rank)
