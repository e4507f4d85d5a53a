"""pointwise: the logistic loss of each exposure, in nats per exposure."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sessionrec_jax.loss.rank import RankLoss
from sessionrec_jax.loss.targets import Targets


def nats(logit_T: Float[Array, " T"], targets: Targets, session_T: Int[Array, " T"]) -> Float[Array, ""]:
    """Sums the binary cross-entropy: log(1 + exp(-s)) of a clicked item, log(1 + exp(s)) of an ignored one. Its floor
    is the entropy of the clicks. A soft label p weighs the two by p and 1 - p, which is the mean over clicks drawn with
    probability p."""
    del session_T
    if (label_T := targets.click_probability_T) is None:
        nats_T = jax.nn.softplus(jnp.where(targets.clicked_T, -logit_T, logit_T))
    else:  # in this form a label of 0 or 1 gives the bits of a click
        nats_T = label_T * jax.nn.softplus(-logit_T) + (1 - label_T) * jax.nn.softplus(logit_T)
    return jnp.sum(nats_T, where=targets.exposed_T)


def terms(targets: Targets, session_T: Int[Array, " T"]) -> Float[Array, ""]:
    """Counts the exposures of target sessions."""
    del session_T
    return jnp.sum(targets.exposed_T, dtype=jnp.float32)


LOSS = RankLoss(nats, terms, is_calibrated=True, soft_labels=True)
