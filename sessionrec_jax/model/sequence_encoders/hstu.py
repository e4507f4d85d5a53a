"""hstu: pointwise SiLU attention with gating (Zhai et al. 2402.17152); auto positions are relative_time.

HSTU is the hierarchical sequential transduction unit; equations 1 to 3 of the paper.

Letters: R rows, L session slots of the query, M of the key, D width, E four widths, N heads, H head width,
x an axis of one.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Key

from sessionrec_jax.config.settings import Model
from sessionrec_jax.model.attention import (
    BIAS_PARAMETERS,
    FusedSlots,
    Slots,
    attention,
    attention_multiplications,
    attention_slots,
    bias_parameters,
    split_by_head,
)
from sessionrec_jax.model.dropout import drop
from sessionrec_jax.model.facts import matrix_in, matrix_out, vector
from sessionrec_jax.model.fused.bias import BiasTables
from sessionrec_jax.model.linear import linear
from sessionrec_jax.model.norm import rms_norm
from sessionrec_jax.model.parametrization import branch_scale, head_width_ratio, initial_layers
from sessionrec_jax.model.sequence_encoder import LayerCost, SequenceEncoder


class HstuBlock(nn.Module):
    """Each head weights by a pointwise SiLU instead of a softmax, so that intensity counts and not only preference:

        U, V, Q, K = split(silu(f1(norm(X))))                             (1)
        A V        = silu(Q K^T + rab) / max_positions * mask  V              (2)
        X          = X + f2(norm(A V) * U)                                (3)

    rab is the bias by position and time, under `--model.positions relative_time`. As in the authors' released code,
    Q K^T is not scaled, the divisor is the constant number of slots (the norm after it cancels any constant, up to its
    epsilon), and that norm is over all D features, the heads together. Our choice: RMS norms with a learned scale (they
    use layer norms without one), no bias in f2, heads of width D / N for all four of U, V, Q and K.
    """

    config: Model
    max_positions: int

    @nn.compact
    def __call__(
        self, x_RLD: Float[Array, "R L D"], slots: Slots | FusedSlots, key_R: Key[Array, " R"] | None
    ) -> tuple[Float[Array, "R L D"], None]:
        config, width = self.config, self.config.width
        small = nn.initializers.variance_scaling(1.0 / initial_layers(config), "fan_in", "truncated_normal")

        h_RLD = rms_norm(self, "norm_in", x_RLD)
        uvqk_RLE = jax.nn.silu(linear(self, "uvqk", h_RLD, 4 * width))
        u_RLD, v_RMD, q_RLD, k_RMD = split_by_head(uvqk_RLE, 4, config.heads)
        scale = 1 / head_width_ratio(config)
        weights = functools.partial(_silu, self.max_positions)
        kernel = functools.partial(_kernel, self.max_positions)
        a_RLD = attention(self, q_RLD, k_RMD, v_RMD, slots, scale=scale, weights=weights, kernel=kernel)
        gated_RLD = rms_norm(self, "norm_attention", a_RLD) * u_RLD
        branch_RLD = linear(self, "out", gated_RLD, width, init=small) * branch_scale(config)
        return x_RLD + drop(branch_RLD, config.dropout, key_R), None


def _silu(
    max_positions: int, logit_RNLM: Float32[Array, "R N L M"], mask_RxLM: Bool[Array, "R 1 L M"]
) -> Float32[Array, "R N L M"]:
    return jnp.where(mask_RxLM, jax.nn.silu(logit_RNLM) / max_positions, 0)


def _kernel(
    max_positions: int,
    platform: str | None,
    q_RLNH: Array,
    k_RLNH: Array,
    v_RLNH: Array,
    user_RL: Array,
    bias: BiasTables | None,
    *,
    scale: float,
) -> Float[Array, "R L N H"] | None:
    """Returns the attention by a kernel, unless a row does not fit into the memory of a TPU's core."""
    if platform not in ("tpu", "gpu"):
        return None
    from sessionrec_jax.model.fused import hstu  # importing Pallas takes a quarter of a second

    _, slots, _, head_width = q_RLNH.shape
    if platform == "tpu" and not hstu.fits(slots, head_width, q_RLNH.dtype):
        return None
    of_encoder = {"scale": scale, "divisor": max_positions, "platform": platform}
    return hstu.hstu_attention(q_RLNH, k_RLNH, v_RLNH, user_RL, bias, **of_encoder)


def _layer_cost(model: Model, max_positions: int) -> LayerCost:
    matrices, norms = 5 * model.width**2, 2 * model.width
    return LayerCost(
        parameters=matrices + norms + bias_parameters(model, max_positions),
        multiplications=matrices + attention_multiplications(model, max_positions),
    )


ENCODER = SequenceEncoder(
    HstuBlock,
    parameters=(matrix_in("uvqk"), matrix_out("out"), vector("norm_in|norm_attention"), BIAS_PARAMETERS),
    layer_cost=_layer_cost,
    positions=("relative_time", "learned", "rotary"),
    prepare_slots=attention_slots,
)
