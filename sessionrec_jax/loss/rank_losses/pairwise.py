"""pairwise: RankNet over the clicked x ignored pairs of a session, in nats per pair.

Letters: T items, G shards. Time T x the longest target session, memory T.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sessionrec_jax.loss.rank import RankLoss, ignored_in_session, session_number
from sessionrec_jax.loss.targets import Targets


def nats(logit_T: Float[Array, " T"], targets: Targets, session_T: Int[Array, " T"]) -> Float[Array, ""]:
    """Sums log(1 + exp(-(s_c - s_i))) over each pair of a clicked item c and an ignored item i of the same session
    (Burges et al. 2005)."""
    sign_T = jnp.where(targets.exposed_T, jnp.where(targets.clicked_T, 1, -1), 0)
    return _ranknet(logit_T, session_number(session_T), sign_T)


def terms(targets: Targets, session_T: Int[Array, " T"]) -> Float[Array, ""]:
    """Counts the pairs."""
    return jnp.sum(ignored_in_session(targets, session_T), where=targets.clicked_T)


LOSS = RankLoss(nats, terms, compares=True)


@jax.custom_vjp
def _ranknet(logit_T: Float[Array, " T"], number_T: Int[Array, " T"], sign_T: Int[Array, " T"]) -> Float[Array, ""]:
    return _one_shard(logit_T, number_T, sign_T)[0]


def _ranknet_forward(
    logit_T: Float[Array, " T"], number_T: Int[Array, " T"], sign_T: Int[Array, " T"]
) -> tuple[Float[Array, ""], Float[Array, " T"]]:
    return _one_shard(logit_T, number_T, sign_T)


def _ranknet_backward(
    gradient_T: Float[Array, " T"], cotangent: Float[Array, ""]
) -> tuple[Float[Array, " T"], None, None]:
    return cotangent * gradient_T, None, None


_ranknet.defvjp(_ranknet_forward, _ranknet_backward)


@jax.custom_batching.custom_vmap
def _one_shard(
    logit_T: Float[Array, " T"], number_T: Int[Array, " T"], sign_T: Int[Array, " T"]
) -> tuple[Float[Array, ""], Float[Array, " T"]]:
    nats_G, gradient_GT = _over_distances(logit_T[None], number_T[None], sign_T[None])
    return nats_G[0], gradient_GT[0]


@_one_shard.def_vmap
def _all_shards(
    axis_size: int, in_batched: list[bool], *arrays: Array
) -> tuple[tuple[Float[Array, " G"], Float[Array, "G T"]], tuple[bool, bool]]:
    """All shards run the same number of rounds: one reduction over the devices before the loop, none inside it."""
    arrays = (
        x if batched else jnp.broadcast_to(x, (axis_size, *x.shape))
        for x, batched in zip(arrays, in_batched, strict=True)
    )
    return _over_distances(*arrays), (True, True)


def _over_distances(
    logit_GT: Float[Array, "G T"], number_GT: Int[Array, "G T"], sign_GT: Int[Array, "G T"]
) -> tuple[Float[Array, " G"], Float[Array, "G T"]]:
    """Returns the nats and their gradient. Round d pairs each item with the item d slots after it; the last round is
    for the longest target session of the batch. `sign_GT`: 1 clicked, -1 ignored, 0 neither."""
    slot_T = jnp.arange(logit_GT.shape[1])
    starts_GT = jnp.diff(number_GT, prepend=-1, axis=1) != 0
    first_GT = jax.lax.cummax(jnp.where(starts_GT, slot_T, 0), axis=1)
    rounds = jnp.max(slot_T - first_GT, where=sign_GT != 0, initial=0)

    def add_round(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        d, nats_G, gradient_GT = carry
        other_GT, other_number_GT, other_sign_GT = (jnp.roll(x, -d, axis=1) for x in (logit_GT, number_GT, sign_GT))
        is_pair_GT = (number_GT == other_number_GT) & (sign_GT * other_sign_GT == -1) & (slot_T < len(slot_T) - d)
        gap_GT = sign_GT * (logit_GT - other_GT)
        nats_G += jnp.sum(jax.nn.softplus(-gap_GT), axis=1, where=is_pair_GT)
        pull_GT = jnp.where(is_pair_GT, sign_GT * jax.nn.sigmoid(-gap_GT), 0.0)
        return d + 1, nats_G, gradient_GT - pull_GT + jnp.roll(pull_GT, d, axis=1)

    start = (jnp.ones((), jnp.int32), jnp.zeros(len(logit_GT), jnp.float32), jnp.zeros_like(logit_GT))
    _, nats_G, gradient_GT = jax.lax.while_loop(lambda carry: carry[0] <= rounds, add_round, start)
    return nats_G, gradient_GT
