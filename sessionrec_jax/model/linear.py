"""A matrix product in the type of its input, from parameters that stay float32. Letters: B any leading axes, X all of
them as one, D features in, E features out."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def linear(module: nn.Module, name: str, start: Callable[..., Array], x: Float[Array, "*B D"], features: int) -> Array:
    """[*B, E = features]: x W, with W the parameter `name` of `module`, initialised by `start`. W is rounded to the
    type of x, and so is the result; the gradient is that of the float32 parameter."""
    return _product(x, jnp.asarray(module.param(name, start, (x.shape[-1], features))))


@jax.custom_vjp
def _product(x: Float[Array, "*B D"], w_DE: Float[Array, "D E"]) -> Float[Array, "*B E"]:
    return x @ w_DE.astype(x.dtype)


def _forward(x: Float[Array, "*B D"], w_DE: Float[Array, "D E"]) -> tuple[Array, tuple[Array, Array]]:
    return _product(x, w_DE), (x, w_DE)


def _backward(kept: tuple[Array, Array], of_product: Float[Array, "*B E"]) -> tuple[Array, Array]:
    """The gradient of W is written as X^T G. What JAX derives is (G^T X)^T, whose transpose costs a CPU a quarter of a
    training step (benchmarks/train_step.py)."""
    x, w_DE = kept
    x_XD, of_product_XE = x.reshape(-1, x.shape[-1]), of_product.reshape(-1, of_product.shape[-1])
    of_w_DE = jnp.einsum("XD,XE->DE", x_XD, of_product_XE, preferred_element_type=w_DE.dtype)
    return of_product @ w_DE.astype(x.dtype).T, of_w_DE


_product.defvjp(_forward, _backward)
