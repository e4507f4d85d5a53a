"""L = L_retrieval + alpha * L_rank (paper) as sums and counts over one shard; what the paper leaves open is our choice.

targets.py says what is scored, negatives.py against what, retrieval_loss.py and rank_loss.py how; this file adds them
up. Letters: T items, S session slots, N negatives, V ids, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sessionrec_jax.config.settings import Loss
from sessionrec_jax.loss.negatives import Negatives, Proposal, draw_negatives, proposal, sample_negatives
from sessionrec_jax.loss.rank import rank_logits, rank_loss_sums, rank_terms
from sessionrec_jax.loss.retrieval import Rows, bce_sums, catalogue_log_sum, full_softmax_sums, sampled_softmax_sums
from sessionrec_jax.loss.targets import Targets, targets
from sessionrec_jax.model.spec import Queries
from sessionrec_jax.registry import RANK_LOSSES

__all__ = [
    "Negatives",
    "Proposal",
    "Rows",
    "Sums",
    "Targets",
    "Terms",
    "catalogue_log_sum",
    "draw_negatives",
    "proposal",
    "rank_logits",
    "rank_loss_sums",
    "sample_negatives",
    "session_loss",
    "targets",
    "terms_of",
]


class Terms(NamedTuple):
    """How many terms each loss has: known before the model is asked, so that a batch may be computed in parts."""

    clicked_items: Float[Array, ""]
    rank_terms: Float[Array, ""]


def terms_of(config: Loss, targets: Targets, session_of_item_T: Int[Array, " T"]) -> Terms:
    """Of one shard."""
    ranked = jnp.zeros(()) if config.alpha == 0 else rank_terms(config, targets, session_of_item_T)
    return Terms(jnp.sum(targets.clicked_T, dtype=jnp.float32), ranked)


class Sums(NamedTuple):
    """Nats and the number of terms they were summed over; the loss is their ratio, taken once over all shards."""

    retrieval_nats: Float[Array, ""]
    clicked_items: Float[Array, ""]
    rank_nats: Float[Array, ""]
    rank_terms: Float[Array, ""]
    """Exposures (pointwise), pairs (pairwise) or clicks (listwise). Both are zero where alpha is."""

    def objective(self, alpha: float, terms: Terms) -> Float[Array, ""]:
        """L_retrieval (nats per clicked item) + alpha * L_rank (nats per term), or its part that these sums are where
        `terms` are those of more."""
        per_item = self.retrieval_nats / jnp.maximum(terms.clicked_items, 1)
        return per_item + alpha * self.rank_nats / jnp.maximum(terms.rank_terms, 1)


def session_loss(
    config: Loss,
    queries: Queries,
    e_TD: Float[Array, "T D"],
    item_T: Int[Array, " T"],
    targets: Targets,
    heads: dict[str, Array],
    log_q_V: Float[Array, " V"],
    negatives: Negatives | None,
    e_ND: Float[Array, "N D"] | None,
    log_sum_S: Float[Array, " S"] | None = None,
) -> Sums:
    """Both losses of one shard. The full softmax reads `log_sum_S`, the sampled losses `negatives` and `e_ND`; what is
    not read may be None. With alpha = 0 the rank loss is not computed."""
    scored = (config, queries.retrieval_SD, e_TD, item_T, targets, heads["item_bias"])
    if config.retrieval == "full_softmax":
        retrieval = full_softmax_sums(*scored, log_sum_S)
    elif config.retrieval == "bce":
        retrieval = bce_sums(*scored, log_q_V, negatives, e_ND)
    else:
        retrieval = sampled_softmax_sums(*scored, log_q_V, negatives, e_ND)
    if config.alpha == 0:
        return Sums(*retrieval, jnp.zeros(()), jnp.zeros(()))
    rank_bias = heads["rank_bias"]
    if RANK_LOSSES.find(config.rank).compares:
        rank_bias = jax.lax.stop_gradient(rank_bias)
    logit_T = rank_logits(queries.rank_SD, e_TD, targets, rank_bias)
    # The query names the session: of all sessions only slot 0, never a target, shares its query with another.
    return Sums(*retrieval, *rank_loss_sums(config, logit_T, targets, targets.query_T))
