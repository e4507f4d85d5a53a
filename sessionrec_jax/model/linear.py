"""A matrix product in the type of its input, from parameters that stay float32. Letters: B any leading axes, D features
in, E features out."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
from jaxtyping import Array, Float


def linear(module: nn.Module, name: str, start: Callable[..., Array], x: Float[Array, "*B D"], features: int) -> Array:
    """[*B, E = features]: x W, with W the parameter `name` of `module`, initialised by `start`. W is rounded to the
    type of x, and so is the result; the gradient is that of the float32 parameter."""
    return x @ module.param(name, start, (x.shape[-1], features)).astype(x.dtype)
