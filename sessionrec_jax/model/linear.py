"""A matrix product in the type of its input, from parameters that stay float32. Letters: B any leading axes, D features
in, E features out."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def linear(module: nn.Module, name: str, start: Callable[..., Array], x: Float[Array, "*B D"], features: int) -> Array:
    """[*B, E = features]: x W, with W the parameter `name` of `module`, initialised by `start`. W is rounded to the
    type of x, and so is the result; the gradient is that of the float32 parameter."""
    return _product(x, module.param(name, start, (x.shape[-1], features)).astype(x.dtype))


@jax.custom_vjp
def _product(x: Float[Array, "*B D"], w_DE: Float[Array, "D E"]) -> Float[Array, "*B E"]:
    """x W. The gradient of W is written as x^T g: by jax's own rule it is (g^T x)^T, for which XLA on a CPU turns the
    whole of g round first (LOG.md, 2026-11-27)."""
    return x @ w_DE


def _forward(x: Float[Array, "*B D"], w_DE: Float[Array, "D E"]) -> tuple[Array, tuple[Array, Array]]:
    return x @ w_DE, (x, w_DE)


def _backward(kept: tuple[Array, Array], g: Float[Array, "*B E"]) -> tuple[Array, Array]:
    x, w_DE = kept
    leading = tuple(range(x.ndim - 1))
    return g @ w_DE.T, jnp.tensordot(x, g, (leading, leading))


_product.defvjp(_forward, _backward)
