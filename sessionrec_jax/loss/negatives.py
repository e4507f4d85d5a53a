"""Sampled negatives of the retrieval loss: where they are drawn from, and the draws of one step.

Letters: G shards, T items, N negatives, V ids. The same negatives serve every session on every device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Float64, Int, UInt32

from sessionrec_jax.config.settings import Loss
from sessionrec_jax.data.catalogue import Catalogue, popularity_rank

_TICKETS = 2**32
"""A draw is one of these: the values of 32 random bits."""


class Proposal(NamedTuple):
    """The distribution Q of the sampled negatives; padding has probability zero."""

    log_q_V: Float[Array, " V"]
    first_V: UInt32[Array, " V"] | None
    """The tickets from first_V[v] up to the next item's draw item v. None: the draws come from the batch."""


def proposal(config: Loss, catalogue: Catalogue) -> Proposal:
    """Returns Q as `negatives_from` asks for it (our choice; the paper says only that negatives are sampled):

    uniform: 1 / items. mixed: u / items + (1 - u) * p with p the smoothed share of the training clicks and
    u = `negatives_uniform`. log_uniform: log((r + 2) / (r + 1)) / log(items + 1) with r the popularity rank from 0
    (TensorFlow's candidate sampler). in_batch: p, the chance that a click taken from a batch is the item's; the draws
    themselves come from the batch. The others are rounded as `ticketed` says.
    """
    q_V = np.exp(catalogue.log_popularity_V.astype(np.float64))
    if config.negatives_from == "uniform":
        q_V = np.ones(len(q_V))
    elif config.negatives_from == "mixed":
        q_V = config.negatives_uniform / catalogue.items + (1 - config.negatives_uniform) * q_V
    elif config.negatives_from == "log_uniform":
        q_V = np.log1p(1 / (popularity_rank(catalogue) + 1.0))
    q_V[0] = 0.0
    return Proposal(_log(q_V / q_V.sum()), None) if config.negatives_from == "in_batch" else ticketed(q_V)


def ticketed(weight_V: Float64[np.ndarray, " V"]) -> Proposal:
    """Returns a proposal whose probabilities are whole numbers of tickets: one for each item, the rest by weight.

    So log Q is exactly the probability that is drawn, for a catalogue of any size; float32 cumulative sums could not
    distinguish the items of a large one. Only padding has weight zero.
    """
    items, sum_V = len(weight_V) - 1, np.cumsum(weight_V)
    end_V = np.rint(sum_V / sum_V[-1] * (_TICKETS - items)).astype(np.int64) + np.arange(items + 1)
    tickets_V = np.diff(end_V, prepend=0)
    return Proposal(_log(tickets_V / _TICKETS), (end_V - tickets_V).astype(np.uint32))


def _log(q_V: Float64[np.ndarray, " V"]) -> Float32[np.ndarray, " V"]:
    with np.errstate(divide="ignore"):
        return np.log(q_V).astype(np.float32)


class Negatives(NamedTuple):
    """Distinct sampled items in ascending order, filled up with ids past the catalogue.

    Equal draws are merged into one whose weight is their count. This changes no loss, and lets binary search find an
    item of the batch that was drawn too.
    """

    item_N: Int[Array, " N"]
    times_N: Float[Array, " N"]
    """Times drawn; 0 for the fill."""


def item_of(proposal: Proposal, ticket_N: UInt32[Array, " N"]) -> Int[Array, " N"]:
    """Returns the item of each ticket: the last one whose tickets begin at or before it.

    Padding is never drawn, because its tickets begin at the same number as those of item 1.
    """
    return jnp.searchsorted(proposal.first_V, ticket_N, side="right") - 1


def draw_negatives(
    config: Loss,
    key: Array,
    proposal: Proposal,
    item_GT: Int[Array, "G T"],
    clicked_GT: Bool[Array, "G T"],
    item_of: Callable[[Proposal, UInt32[Array, " N"]], Int[Array, " N"]] = item_of,
) -> Negatives:
    """Draws the negatives of a step by `negatives_from`; `clicked_GT` marks the clicked items of target sessions.

    `item_of` finds the items of tickets; a proposal that is spread over devices needs another one
    (devices/spread_proposal.py)."""
    if config.negatives_from == "in_batch":
        ids = proposal.log_q_V.shape[0]
        return sample_in_batch(key, item_GT, clicked_GT, negatives=config.negatives, ids=ids)
    return sample_negatives(key, proposal, config.negatives, item_of)


def sample_negatives(
    key: Array,
    proposal: Proposal,
    negatives: int,
    item_of: Callable[[Proposal, UInt32[Array, " N"]], Int[Array, " N"]] = item_of,
) -> Negatives:
    """Draws `negatives` items from the proposal with replacement; the same on every device because the key is."""
    ticket_N = jax.random.bits(key, (negatives,), jnp.uint32)
    return _merged(item_of(proposal, ticket_N), proposal.log_q_V.shape[0])


def sample_in_batch(
    key: Array, item_GT: Int[Array, "G T"], clicked_GT: Bool[Array, "G T"], *, negatives: int, ids: int
) -> Negatives:
    """Draws `negatives` clicked target items of all shards, with replacement; each click is equally likely.

    A batch without clicks gives no negatives. The draws depend only on the order of the clicks, so not on how the batch
    is spread over devices.
    """
    clicks_X = jnp.cumsum(clicked_GT.reshape(-1))
    click_N = jax.random.randint(key, (negatives,), 0, jnp.maximum(clicks_X[-1], 1))
    place_N = jnp.searchsorted(clicks_X, click_N, side="right")
    return _merged(item_GT.reshape(-1).at[place_N].get(mode="fill", fill_value=ids), ids)


def _merged(draw_N: Int[Array, " N"], ids: int) -> Negatives:
    item_N, times_N = jnp.unique(draw_N, return_counts=True, size=len(draw_N), fill_value=ids)
    return Negatives(item_N, jnp.where(item_N < ids, times_N, 0).astype(jnp.float32))
