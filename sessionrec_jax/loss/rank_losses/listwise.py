"""listwise: a softmax of each clicked item against the ignored items of its session, in nats per click."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sessionrec_jax.loss.rank import RankLoss, ignored, ignored_in_session, session_number
from sessionrec_jax.loss.targets import Targets
from sessionrec_jax.model.segment import segment_logsumexp


def nats(logit_T: Float[Array, " T"], targets: Targets, session_T: Int[Array, " T"]) -> Float[Array, ""]:
    """Sums -log [ exp(s_c) / (exp(s_c) + sum_i exp(s_i)) ] over each clicked item c of a session with ignored items i:
    the paper's negatives under a softmax."""
    number_T = session_number(session_T)
    ignored_T1 = jnp.where(ignored(targets), logit_T, -jnp.inf)[:, None]
    log_ignored_T = segment_logsumexp(ignored_T1, number_T, len(number_T), is_sorted=True)[number_T, 0]
    has_ignored_T = log_ignored_T > -jnp.inf
    nats_T = jax.nn.softplus(jnp.where(has_ignored_T, log_ignored_T, 0.0) - logit_T)
    return jnp.sum(nats_T, where=targets.clicked_T & has_ignored_T)


def terms(targets: Targets, session_T: Int[Array, " T"]) -> Float[Array, ""]:
    """Counts the clicked items of sessions with ignored items."""
    return jnp.sum(jnp.minimum(ignored_in_session(targets, session_T), 1), where=targets.clicked_T)


LOSS = RankLoss(nats, terms, compares=True)
