"""transformer: pre-norm causal softmax attention and an MLP, as in SASRec; auto positions are learned.

SASRec is by Kang & McAuley (1808.09781); the details are our choice.

Letters: R rows, L session slots of the query, M of the key, D width, E three widths, N heads, H head width, F hidden
width, x an axis of one.
"""

from __future__ import annotations

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
from sessionrec_jax.model.linear import keeps_sum, linear
from sessionrec_jax.model.norm import rms_norm
from sessionrec_jax.model.parametrization import branch_scale, head_width_ratio, initial_layers
from sessionrec_jax.model.sequence_encoder import LayerCost, SequenceEncoder


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)). Output projections start smaller in deeper models.

    MLP `gelu`: W_out gelu(W_in x). `swiglu`: W_out (silu(W_gate x) * W_in x) (Shazeer 2002.05202). Both have the hidden
    width mlp_ratio * D, so `swiglu` has half as many weights again: compare the two at equal N, not at equal mlp_ratio.
    """

    config: Model
    max_positions: int

    @nn.compact
    def __call__(
        self, x_RLD: Float[Array, "R L D"], slots: Slots | FusedSlots, key_R: Key[Array, " R"] | None
    ) -> tuple[Float[Array, "R L D"], None]:
        config, width, hidden = self.config, self.config.width, self.config.mlp_ratio * self.config.width
        small = nn.initializers.variance_scaling(1.0 / (2 * initial_layers(config)), "fan_in", "truncated_normal")

        h_RLD = rms_norm(self, "norm_attention", x_RLD)
        q_RLD, k_RMD, v_RMD = split_by_head(linear(self, "qkv", h_RLD, 3 * width), 3, config.heads)
        scale = (width // config.heads * head_width_ratio(config)) ** -0.5
        a_RLD = attention(self, q_RLD, k_RMD, v_RMD, slots, scale=scale, weights=_softmax, kernel=_kernel)
        branch_RLD = keeps_sum(linear(self, "attention_out", a_RLD, width, init=small))
        x_RLD = x_RLD + drop(branch_RLD * branch_scale(config), config.dropout, key_R, site=0)

        h_RLD = rms_norm(self, "norm_mlp", x_RLD)
        if config.mlp == "swiglu":
            gate_RLF = jax.nn.silu(linear(self, "mlp_gate", h_RLD, hidden))
            h_RLF = gate_RLF * linear(self, "mlp_in", h_RLD, hidden)
        else:
            h_RLF = jax.nn.gelu(linear(self, "mlp_in", h_RLD, hidden))
        branch_RLD = linear(self, "mlp_out", h_RLF, width, init=small)
        return x_RLD + drop(branch_RLD * branch_scale(config), config.dropout, key_R, site=1), None


def _softmax(logit_RNLM: Float32[Array, "R N L M"], mask_RxLM: Bool[Array, "R 1 L M"]) -> Float32[Array, "R N L M"]:
    return jax.nn.softmax(jnp.where(mask_RxLM, logit_RNLM, -1e30), axis=-1)


def _kernel(
    platform: str | None,
    q_RLNH: Array,
    k_RLNH: Array,
    v_RLNH: Array,
    user_RL: Array,
    bias: BiasTables | None,
    *,
    scale: float,
) -> Float[Array, "R L N H"] | None:
    """Returns the attention by a kernel of JAX. The kernels know no bias by time."""
    if bias is not None:
        return None
    # Importing Pallas takes a quarter of a second.
    if platform == "tpu":
        from sessionrec_jax.model.fused.splash import splash_attention

        return splash_attention(q_RLNH, k_RLNH, v_RLNH, user_RL, scale=scale)
    if platform == "gpu":
        from sessionrec_jax.model.fused.triton import triton_attention

        return triton_attention(q_RLNH, k_RLNH, v_RLNH, user_RL, scale=scale)
    return None


def _layer_cost(model: Model, max_positions: int) -> LayerCost:
    matrices = (4 + (3 if model.mlp == "swiglu" else 2) * model.mlp_ratio) * model.width**2
    norms = 2 * model.width
    return LayerCost(
        parameters=matrices + norms + bias_parameters(model, max_positions),
        multiplications=matrices + attention_multiplications(model, max_positions),
    )


ENCODER = SequenceEncoder(
    TransformerBlock,
    parameters=(
        matrix_in("qkv|mlp_in|mlp_gate"),
        matrix_out("attention_out|mlp_out"),
        vector("norm_attention|norm_mlp"),
        BIAS_PARAMETERS,
    ),
    layer_cost=_layer_cost,
    prepare_slots=attention_slots,
)
