"""SSE, the session-based sequence encoder (paper): causal over session vectors, an output o at every session.

Letters: R rows, L session slots, D width, N heads, H head width, F hidden width. Users are packed side by side in a
row, so attention is causal and block-diagonal. Pre-norm Transformer; its details are our choice.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sessionrec_jax.config import Model


class Noise(NamedTuple):
    """Randomness of one training step's dropout, by global row, so that it does not depend on the devices."""

    key: Array
    row_R: Int[Array, " R"]
    """Number of each row in the whole batch."""


def attention_mask(user_RL: Int[Array, "R L"]) -> Bool[Array, "R L L"]:
    """True where the query's slot (first L) may look: the same user's sessions up to its own."""
    slots = user_RL.shape[1]
    same_user_RLL = user_RL[:, :, None] == user_RL[:, None, :]
    return same_user_RLL & jnp.tril(jnp.ones((slots, slots), bool))


def rms_norm(module: nn.Module, name: str, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Root-mean-square norm (Zhang & Sennrich 1910.07467) with a learned scale, in float32."""
    scale_D = module.param(name, nn.initializers.ones, (x.shape[-1],))
    x32 = x.astype(jnp.float32)
    return (x32 * jax.lax.rsqrt(jnp.mean(x32**2, axis=-1, keepdims=True) + 1e-6) * scale_D).astype(x.dtype)


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)). Output projections start small so that depth does not."""

    config: Model

    @nn.compact
    def __call__(
        self, x_RLD: Float[Array, "R L D"], mask_RLL: Bool[Array, "R L L"]
    ) -> tuple[Float[Array, "R L D"], None]:
        width, heads, hidden = self.config.width, self.config.heads, self.config.mlp_ratio * self.config.width
        head_width = width // heads
        matrix = nn.initializers.lecun_normal()
        small = nn.initializers.variance_scaling(1.0 / (2 * self.config.layers), "fan_in", "truncated_normal")

        h_RLD = rms_norm(self, "norm_attention", x_RLD)
        qkv_RLE = h_RLD @ self.param("qkv", matrix, (width, 3 * width))
        q_RLNH, k_RMNH, v_RMNH = (
            part.reshape(*part.shape[:2], heads, head_width) for part in jnp.split(qkv_RLE, 3, axis=-1)
        )
        logit_RNLM = jnp.einsum("RLNH,RMNH->RNLM", q_RLNH, k_RMNH).astype(jnp.float32) * head_width**-0.5
        weight_RNLM = jax.nn.softmax(jnp.where(mask_RLL[:, None], logit_RNLM, -1e30), axis=-1).astype(x_RLD.dtype)
        a_RLD = jnp.einsum("RNLM,RMNH->RLNH", weight_RNLM, v_RMNH).reshape(x_RLD.shape)
        x_RLD = x_RLD + a_RLD @ self.param("attention_out", small, (width, width))

        h_RLD = rms_norm(self, "norm_mlp", x_RLD)
        h_RLF = jax.nn.gelu(h_RLD @ self.param("mlp_in", matrix, (width, hidden)))
        return x_RLD + h_RLF @ self.param("mlp_out", small, (hidden, width)), None


class SequenceEncoder(nn.Module):
    """Learned position embeddings, `layers` blocks under one scan with rematerialisation, a final norm."""

    config: Model
    positions: int
    """Longest history: session slots of a row."""

    @nn.compact
    def __call__(
        self,
        s_RLD: Float[Array, "R L D"],
        user_RL: Int[Array, "R L"],
        position_RL: Int[Array, "R L"],
        seconds_RL: Int[Array, "R L"],
        noise: Noise | None,
    ) -> Float[Array, "R L D"]:
        position_PD = self.param("position", nn.initializers.normal(0.02), (self.positions, self.config.width))
        x_RLD = rms_norm(self, "norm_in", s_RLD) + position_PD[position_RL]
        if self.config.layers:
            blocks = nn.scan(
                nn.remat(Block, prevent_cse=False),
                variable_axes={"params": 0},
                split_rngs={"params": True},
                in_axes=nn.broadcast,
                length=self.config.layers,
            )
            x_RLD, _ = blocks(self.config, name="blocks")(x_RLD, attention_mask(user_RL))
        return rms_norm(self, "norm_out", x_RLD)
