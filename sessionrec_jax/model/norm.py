"""The norm of every layer. Letters: B any leading axes, D features."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def rms_norm(module: nn.Module, name: str, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Root-mean-square norm (Zhang & Sennrich 1910.07467) with a learned scale, in float32."""
    scale_D = module.param(name, nn.initializers.ones, (x.shape[-1],))
    x32 = x.astype(jnp.float32)
    return (x32 * jax.lax.rsqrt(jnp.mean(x32**2, axis=-1, keepdims=True) + 1e-6) * scale_D).astype(x.dtype)
