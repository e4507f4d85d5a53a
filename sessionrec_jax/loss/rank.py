"""L_rank: the clicked items of a target session against the ignored items of the same session.

The paper says which items (its negatives are exposed but not clicked) and not the form, so each form is our choice.
Context never enters, and an item that is exposed twice is two terms. Letters: T items, S session slots, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sessionrec_jax.config.settings import Loss
from sessionrec_jax.loss.targets import Targets, own_products
from sessionrec_jax.registry import RANK_LOSSES


@dataclass(frozen=True)
class RankLoss:
    """Everything that is true of one rank loss. `sessionrec_jax.registry.RANK_LOSSES` finds it by name.

    The functions get the items of one shard. Items of one session are adjacent and share a number in session_T; of the
    items exposed in a target session, no others have that number.
    """

    nats: Callable[[Float[Array, " T"], Targets, Int[Array, " T"]], Float[Array, ""]]
    """Sums the loss over its terms, from (logit_T, targets, session_T)."""
    terms: Callable[[Targets, Int[Array, " T"]], Float[Array, ""]]
    """Counts the terms, from (targets, session_T), before the model is applied."""
    is_calibrated: bool = False
    """Its optimum is the log odds of a click, so evaluation may report the nats of the clicks."""
    soft_labels: bool = False
    """`nats` reads `Targets.click_probability_T` where it is not None."""
    compares: bool = False
    """It depends only on differences of scores within a session. The rank bias then gets no gradient (it would be a
    rounding error, which Adam would enlarge), and a log with one exposure in each session is refused."""


def rank_logits(
    queries_SD: Float[Array, "S D"], e_TD: Float[Array, "T D"], targets: Targets, rank_bias: Float[Array, ""]
) -> Float[Array, " T"]:
    """Returns the log odds that an exposure is clicked, except for a constant in each session if the loss compares.
    They have a meaning where `targets.exposed_T` holds."""
    return own_products(queries_SD, e_TD, targets) + rank_bias


def rank_loss_sums(
    config: Loss, logit_T: Float[Array, " T"], targets: Targets, session_T: Int[Array, " T"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns the summed nats of `config.rank` over one shard, and the number of terms."""
    return RANK_LOSSES.find(config.rank).nats(logit_T, targets, session_T), rank_terms(config, targets, session_T)


def rank_terms(config: Loss, targets: Targets, session_T: Int[Array, " T"]) -> Float[Array, ""]:
    """Returns the number of terms alone, which needs no scores."""
    return RANK_LOSSES.find(config.rank).terms(targets, session_T)


def ignored(targets: Targets) -> Array:
    """Returns True for each exposure of a target session that was not clicked, [T]."""
    return targets.exposed_T & ~targets.clicked_T


def session_number(session_T: Int[Array, " T"]) -> Int[Array, " T"]:
    """Numbers the sessions 0, 1, ... in their order."""
    starts_T = jnp.diff(session_T, prepend=session_T[:1]) != 0
    return jnp.cumsum(starts_T, dtype=jnp.int32)


def ignored_in_session(targets: Targets, session_T: Int[Array, " T"]) -> Float[Array, " T"]:
    """Returns the number of ignored exposures in the session of each item."""
    number_T = session_number(session_T)
    return jax.ops.segment_sum(ignored(targets).astype(jnp.float32), number_T, len(number_T))[number_T]
