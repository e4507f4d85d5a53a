"""L_rank: the clicked items of a target session against the ignored ones of the same session.

The paper says which items (its negatives are exposed but not clicked) and not the form, so each form is our choice.
Context never enters, and an item that is exposed twice is two terms. Letters: T items, S session slots, D width,
G shards.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sessionrec_jax.config.settings import Loss
from sessionrec_jax.loss.targets import Targets, own_products
from sessionrec_jax.model.segment import segment_logsumexp


def rank_logits(
    queries_SD: Float[Array, "S D"], e_TD: Float[Array, "T D"], targets: Targets, rank_bias: Float[Array, ""]
) -> Float[Array, " T"]:
    """Log odds that an exposure is clicked, known but for a constant a session where the loss is pairwise or listwise;
    meaningful where `targets.exposed_T` holds."""
    return own_products(queries_SD, e_TD, targets) + rank_bias


def rank_loss_sums(
    config: Loss, logit_T: Float[Array, " T"], targets: Targets, session_of_item_T: Int[Array, " T"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Summed nats of `config.rank` and the number of its terms, of one shard.

    `session_of_item_T`: the items of a session stand together and share a number; of the items that are exposed in a
    target session, no others have it.
    """
    if config.rank == "pairwise":
        return _pairwise(logit_T, targets, session_of_item_T)
    if config.rank == "listwise":
        return _listwise(logit_T, targets, session_of_item_T)
    return _pointwise(logit_T, targets)


def rank_terms(config: Loss, targets: Targets, session_of_item_T: Int[Array, " T"]) -> Float[Array, ""]:
    """The number of terms that `rank_loss_sums` will find."""
    ignored_T = targets.exposed_T & ~targets.clicked_T
    if config.rank == "pointwise":
        return jnp.sum(targets.exposed_T, dtype=jnp.float32)
    run_T = _runs(session_of_item_T)
    ignored_in_own_T = jax.ops.segment_sum(ignored_T.astype(jnp.float32), run_T, len(run_T))[run_T]
    if config.rank == "listwise":
        ignored_in_own_T = jnp.minimum(ignored_in_own_T, 1)
    return jnp.sum(ignored_in_own_T, where=targets.clicked_T)


def _pointwise(logit_T: Float[Array, " T"], targets: Targets) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Binary cross-entropy of each exposure: log(1 + exp(-s)) of a clicked, log(1 + exp(s)) of an ignored one.
    Calibrated, so that its floor is the entropy of the clicks."""
    nats_T = jax.nn.softplus(jnp.where(targets.clicked_T, -logit_T, logit_T))
    return jnp.sum(nats_T, where=targets.exposed_T), jnp.sum(targets.exposed_T, dtype=jnp.float32)


def _listwise(
    logit_T: Float[Array, " T"], targets: Targets, session_T: Int[Array, " T"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """-log [ exp(s_c) / (exp(s_c) + sum_i exp(s_i)) ], a term for each clicked item c of a session that ignored some
    item, i its ignored items: the paper's negatives under a softmax."""
    run_T, ignored_T = _runs(session_T), targets.exposed_T & ~targets.clicked_T
    ignored_T1 = jnp.where(ignored_T, logit_T, -jnp.inf)[:, None]
    log_ignored_T = segment_logsumexp(ignored_T1, run_T, len(run_T), is_sorted=True)[run_T, 0]
    has_ignored_T = log_ignored_T > -jnp.inf
    term_T = targets.clicked_T & has_ignored_T
    nats_T = jax.nn.softplus(jnp.where(has_ignored_T, log_ignored_T, 0.0) - logit_T)
    return jnp.sum(nats_T, where=term_T), jnp.sum(term_T, dtype=jnp.float32)


def _pairwise(
    logit_T: Float[Array, " T"], targets: Targets, session_T: Int[Array, " T"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """RankNet (Burges et al. 2005): log(1 + exp(-(s_c - s_i))), a term for each pair of a clicked item c and an ignored
    item i of the same session. Time T x the longest target session, memory T."""
    sign_T = jnp.where(targets.exposed_T, jnp.where(targets.clicked_T, 1, -1), 0)
    return _ranknet(logit_T, _runs(session_T), sign_T)


def _runs(session_T: Int[Array, " T"]) -> Int[Array, " T"]:
    """Sessions numbered 0, 1, ... as they stand."""
    starts_T = jnp.diff(session_T, prepend=session_T[:1]) != 0
    return jnp.cumsum(starts_T, dtype=jnp.int32)


@jax.custom_vjp
def _ranknet(
    logit_T: Float[Array, " T"], run_T: Int[Array, " T"], sign_T: Int[Array, " T"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    return _of_one_shard(logit_T, run_T, sign_T)[:2]


def _ranknet_forward(
    logit_T: Float[Array, " T"], run_T: Int[Array, " T"], sign_T: Int[Array, " T"]
) -> tuple[tuple[Float[Array, ""], Float[Array, ""]], Float[Array, " T"]]:
    nats, pairs, gradient_T = _of_one_shard(logit_T, run_T, sign_T)
    return (nats, pairs), gradient_T


def _ranknet_backward(
    gradient_T: Float[Array, " T"], cotangents: tuple[Float[Array, ""], Float[Array, ""]]
) -> tuple[Float[Array, " T"], None, None]:
    return cotangents[0] * gradient_T, None, None


_ranknet.defvjp(_ranknet_forward, _ranknet_backward)


@jax.custom_batching.custom_vmap
def _of_one_shard(
    logit_T: Float[Array, " T"], run_T: Int[Array, " T"], sign_T: Int[Array, " T"]
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, " T"]]:
    nats_G, pairs_G, gradient_GT = _over_distances(logit_T[None], run_T[None], sign_T[None])
    return nats_G[0], pairs_G[0], gradient_GT[0]


@_of_one_shard.def_vmap
def _of_shards(
    axis_size: int, in_batched: list[bool], *arrays: Array
) -> tuple[tuple[Float[Array, " G"], Float[Array, " G"], Float[Array, "G T"]], tuple[bool, bool, bool]]:
    """All shards take the same number of rounds: one reduction over the devices before the loop, none inside."""
    arrays = (
        x if batched else jnp.broadcast_to(x, (axis_size, *x.shape))
        for x, batched in zip(arrays, in_batched, strict=True)
    )
    return _over_distances(*arrays), (True, True, True)


def _over_distances(
    logit_GT: Float[Array, "G T"], run_GT: Int[Array, "G T"], sign_GT: Int[Array, "G T"]
) -> tuple[Float[Array, " G"], Float[Array, " G"], Float[Array, "G T"]]:
    """Nats, pairs and the gradient of the nats. Round d pairs each item with the one d places on, and stops at the
    longest target session of the batch. `sign_GT`: 1 clicked, -1 ignored, 0 neither."""
    place_T = jnp.arange(logit_GT.shape[1])
    starts_GT = jnp.diff(run_GT, prepend=-1, axis=1) != 0
    first_GT = jax.lax.cummax(jnp.where(starts_GT, place_T, 0), axis=1)
    rounds = jnp.max(place_T - first_GT, where=sign_GT != 0, initial=0)

    def add_round(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        d, nats_G, pairs_G, gradient_GT = carry
        other_GT, other_run_GT, other_sign_GT = (jnp.roll(x, -d, axis=1) for x in (logit_GT, run_GT, sign_GT))
        is_pair_GT = (run_GT == other_run_GT) & (sign_GT * other_sign_GT == -1) & (place_T < len(place_T) - d)
        gap_GT = sign_GT * (logit_GT - other_GT)
        nats_G += jnp.sum(jax.nn.softplus(-gap_GT), axis=1, where=is_pair_GT)
        pairs_G += jnp.sum(is_pair_GT, axis=1, dtype=jnp.float32)
        pull_GT = jnp.where(is_pair_GT, sign_GT * jax.nn.sigmoid(-gap_GT), 0.0)
        return d + 1, nats_G, pairs_G, gradient_GT - pull_GT + jnp.roll(pull_GT, d, axis=1)

    zero_G = jnp.zeros(len(logit_GT), jnp.float32)
    start = (jnp.ones((), jnp.int32), zero_G, zero_G, jnp.zeros_like(logit_GT))
    _, nats_G, pairs_G, gradient_GT = jax.lax.while_loop(lambda carry: carry[0] <= rounds, add_round, start)
    return nats_G, pairs_G, gradient_GT
