"""A plugin: a sequence encoder, a session encoder and a rank loss that this package does not know.

`sessionrec train DATA --out RUN --plugin plugin_example --model.sequence-encoder running_mean` uses the encoder.
docs/extending.md shows the part between the two marks.
"""

from __future__ import annotations

# [docs
import flax.linen as nn
import jax
import jax.numpy as jnp

from sessionrec_jax.model.facts import matrix_in, matrix_out, vector
from sessionrec_jax.model.linear import linear
from sessionrec_jax.model.norm import rms_norm
from sessionrec_jax.model.parametrization import branch_scale
from sessionrec_jax.model.sequence_encoder import LayerCost, SequenceEncoder
from sessionrec_jax.registry import register_rank_loss, register_sequence_encoder, register_session_encoder


class RunningMean(nn.Module):
    """x + W_out gelu(W_in mean(norm(x))), where the mean is over the user's sessions so far."""

    config: object
    max_positions: int

    @nn.compact
    def __call__(self, x_RLD, slots, key_R):
        width = self.config.width
        weight_RLM = slots.mask_RLM / jnp.sum(slots.mask_RLM, axis=-1, keepdims=True)
        mean_RLD = weight_RLM.astype(x_RLD.dtype) @ rms_norm(self, "norm", x_RLD)
        h_RLF = jax.nn.gelu(linear(self, "hidden_in", mean_RLD, 2 * width))
        out_RLD = linear(self, "hidden_out", h_RLF, width)
        return x_RLD + out_RLD * branch_scale(self.config), None


def layer_cost(model, max_positions):
    matrices = 4 * model.width**2
    return LayerCost(parameters=matrices + model.width, multiplications=matrices + max_positions * model.width)


RUNNING_MEAN = SequenceEncoder(
    RunningMean,
    parameters=(matrix_in("hidden_in"), matrix_out("hidden_out"), vector("norm")),
    layer_cost=layer_cost,
    positions=("learned",),
)
register_sequence_encoder("running_mean", RUNNING_MEAN)
# docs]

from sessionrec_jax.loss.rank import RankLoss  # noqa: E402
from sessionrec_jax.loss.rank_losses import pointwise  # noqa: E402
from sessionrec_jax.model.facts import projection  # noqa: E402
from sessionrec_jax.model.segment import segment_max, segment_mean  # noqa: E402
from sessionrec_jax.model.session_encoder import (  # noqa: E402
    SessionEncoder,
    SessionEncoderCost,
    SessionEncoderModule,
)


class MeanAndMax(SessionEncoderModule):
    """The mean and the largest value of the session's items, each with a projection, added."""

    def pool(self, items):
        arguments = (items.x_TD, items.session_T, items.sessions)
        mean_SD = segment_mean(*arguments, is_sorted=items.is_sorted).astype(items.x_TD.dtype)
        max_SD = segment_max(*arguments, is_sorted=items.is_sorted).astype(items.x_TD.dtype)
        width = self.config.width
        return linear(self, "of_mean", mean_SD, width) + linear(self, "of_max", max_SD, width)


def session_cost(model, feedback_kinds, session_items):
    return SessionEncoderCost(parameters=2 * model.width**2, per_item=0, per_session=2 * model.width**2)


MEAN_AND_MAX = SessionEncoder(MeanAndMax, parameters=(projection("of_mean|of_max"),), cost=session_cost)
register_session_encoder("mean_and_max", MEAN_AND_MAX)


def hinge(logit_T, targets, session_T):
    """Sums max(0, 1 - s) over clicked items and max(0, 1 + s) over ignored items."""
    margin_T = 1 + jnp.where(targets.clicked_T, -logit_T, logit_T)
    return jnp.sum(jnp.maximum(margin_T, 0), where=targets.exposed_T)


register_rank_loss("hinge", RankLoss(hinge, pointwise.terms))
