"""The layer of a pre-norm causal Transformer (SASRec's family, Kang & McAuley 1808.09781); its details are our choice.

Letters: R rows, L session slots of the query, M of the key, D width, E three widths, N heads, H head width, F hidden
width.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from sessionrec_jax.config.settings import Model
from sessionrec_jax.model.attention import Slots, attention_logits, split_heads
from sessionrec_jax.model.dropout import drop
from sessionrec_jax.model.linear import linear
from sessionrec_jax.model.norm import rms_norm
from sessionrec_jax.model.parametrization import branch_scale, head_width_ratio, initial_layers


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)). Output projections start small so that depth does not.

    MLP `gelu`: W_out gelu(W_in x). `swiglu`: W_out (silu(W_gate x) * W_in x) (Shazeer 2002.05202), of the same hidden
    width mlp_ratio * D and so with half as many weights again: compare the two at equal N, not at equal mlp_ratio.
    """

    config: Model
    positions: int

    @nn.compact
    def __call__(
        self, x_RLD: Float[Array, "R L D"], slots: Slots, key_R: Key[Array, " R"] | None
    ) -> tuple[Float[Array, "R L D"], None]:
        config, width, hidden = self.config, self.config.width, self.config.mlp_ratio * self.config.width
        matrix = nn.initializers.lecun_normal()
        small = nn.initializers.variance_scaling(1.0 / (2 * initial_layers(config)), "fan_in", "truncated_normal")

        h_RLD = rms_norm(self, "norm_attention", x_RLD)
        q_RLD, k_RMD, v_RMD = jnp.split(linear(self, "qkv", matrix, h_RLD, 3 * width), 3, axis=-1)
        scale = (width // config.heads * head_width_ratio(config)) ** -0.5
        logit_RNLM = attention_logits(self, config, self.positions, q_RLD, k_RMD, slots, scale)
        weight_RNLM = jax.nn.softmax(jnp.where(slots.mask_RLM[:, None], logit_RNLM, -1e30), axis=-1).astype(x_RLD.dtype)
        a_RLNH = jnp.einsum("RNLM,RMNH->RLNH", weight_RNLM, split_heads(v_RMD, config.heads))
        branch_RLD = linear(self, "attention_out", small, a_RLNH.reshape(x_RLD.shape), width)
        x_RLD = x_RLD + drop(branch_RLD * branch_scale(config), config.dropout, key_R, site=0)

        h_RLD = rms_norm(self, "norm_mlp", x_RLD)
        if config.mlp == "swiglu":
            gate_RLF = jax.nn.silu(linear(self, "mlp_gate", matrix, h_RLD, hidden))
            h_RLF = gate_RLF * linear(self, "mlp_in", matrix, h_RLD, hidden)
        else:
            h_RLF = jax.nn.gelu(linear(self, "mlp_in", matrix, h_RLD, hidden))
        branch_RLD = linear(self, "mlp_out", small, h_RLF, width)
        return x_RLD + drop(branch_RLD * branch_scale(config), config.dropout, key_R, site=1), None
