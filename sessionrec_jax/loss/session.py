"""L = L_retrieval + alpha * L_rank (paper) as sums and counts over one shard; what the paper leaves open is our choice.

targets.py says which items are scored, negatives.py against which others, retrieval.py and rank.py how; this file adds
the two losses up. Letters: T items, S session slots, N negatives, V ids, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sessionrec_jax.config.settings import Loss
from sessionrec_jax.loss.rank import rank_logits, rank_loss_sums, rank_terms
from sessionrec_jax.loss.retrieval import (
    SampledItems,
    Scorer,
    ShardItems,
    bce_sums,
    full_softmax_sums,
    sampled_softmax_sums,
)
from sessionrec_jax.loss.targets import Targets
from sessionrec_jax.model.spec import Queries
from sessionrec_jax.registry import RANK_LOSSES


class Terms(NamedTuple):
    """The number of terms of each loss. It is known before the model runs, so that microbatches can be added up."""

    clicked_items: Float[Array, ""]
    rank_terms: Float[Array, ""]


def terms_of(config: Loss, targets: Targets, session_of_item_T: Int[Array, " T"]) -> Terms:
    """Counts the terms of one shard."""
    ranked = jnp.zeros(()) if config.alpha == 0 else rank_terms(config, targets, session_of_item_T)
    return Terms(jnp.sum(targets.clicked_T, dtype=jnp.float32), ranked)


class Sums(NamedTuple):
    """Nats and the number of terms they were summed over; the loss is their ratio, taken once over all shards."""

    retrieval_nats: Float[Array, ""]
    clicked_items: Float[Array, ""]
    rank_nats: Float[Array, ""]
    rank_terms: Float[Array, ""]
    """Exposures (pointwise), pairs (pairwise) or clicks (listwise). Both are zero if alpha is."""

    def objective(self, alpha: float, terms: Terms) -> Float[Array, ""]:
        """Returns L_retrieval (nats per clicked item) + alpha * L_rank (nats per term).

        If `terms` counts a whole batch and these sums are of one microbatch, it returns the microbatch's share.
        """
        per_item = self.retrieval_nats / jnp.maximum(terms.clicked_items, 1)
        return per_item + alpha * self.rank_nats / jnp.maximum(terms.rank_terms, 1)


def session_loss(
    config: Loss,
    queries: Queries,
    items: ShardItems,
    *,
    heads: dict[str, Array],
    sampled: SampledItems | None,
    log_sum_S: Float[Array, " S"] | None,
) -> Sums:
    """Returns both losses of one shard; with alpha = 0 the rank loss is not computed.

    The full softmax reads `log_sum_S`, the sampled losses read `sampled`; the other one may be None. Without a
    retrieval loss both may be.
    """
    scorer = Scorer(queries.retrieval_SD, heads["item_bias"])
    if config.retrieval == "none":
        retrieval = jnp.zeros(()), jnp.zeros(())
    elif config.retrieval == "full_softmax":
        retrieval = full_softmax_sums(config, scorer, items, log_sum_S)
    elif config.retrieval == "bce":
        retrieval = bce_sums(config, scorer, items, sampled)
    else:
        retrieval = sampled_softmax_sums(config, scorer, items, sampled)
    if config.alpha == 0:
        return Sums(*retrieval, jnp.zeros(()), jnp.zeros(()))
    rank_bias = heads["rank_bias"]
    if RANK_LOSSES.find(config.rank).compares:
        rank_bias = jax.lax.stop_gradient(rank_bias)
    logit_T = rank_logits(queries.rank_SD, items.e_TD, items.targets, rank_bias)
    # The query names the session: only slot 0, never a target, shares its query with another session.
    return Sums(*retrieval, *rank_loss_sums(config, logit_T, items.targets, items.targets.query_T))
