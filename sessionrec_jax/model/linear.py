"""A matrix product in the type of its input, with a float32 parameter. Letters: B any leading axes, X all of them as
one, D features in, E features out."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

_SUM = "sum over devices"


def linear(
    module: nn.Module,
    name: str,
    x: Float[Array, "*B D"],
    features: int,
    *,
    init: Callable[..., Array] = nn.initializers.lecun_normal(),  # noqa: B008  a function
) -> Array:
    """Returns x W, [*B, E = features], with W the parameter `name` of `module`, initialised by `init`. W and the
    result have the type of x; the gradient of W is float32."""
    w_DE = jnp.asarray(module.param(name, init, (x.shape[-1], features)))
    return stays_with_its_batch(_product(stays_with_its_batch(x), w_DE))


def stays_with_its_batch(x: Array) -> Array:
    """Returns x, which stays on the devices of its part of the batch. Inside `jax.vmap` over shards with an
    `spmd_axis_name`, this fixes the axis of shards alone.

    Without it, XLA gathers the batch over `fsdp` where a weight is divided over that axis; with it, the weight.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*[PartitionSpec.UNCONSTRAINED] * x.ndim))


def keeps_sum(x: Array) -> Array:
    """Returns x, a sum over the devices of the axis `model`, which `remat` keeps instead of computing and sending it a
    second time."""
    return checkpoint_name(x, _SUM)


def kept_by_remat() -> Callable[..., bool] | None:
    """Returns the policy of `nn.remat`: it keeps nothing but what `keeps_sum` names, and that only where devices share
    a matrix; None keeps nothing."""
    mesh = jax.sharding.get_abstract_mesh()
    return jax.checkpoint_policies.save_only_these_names(_SUM) if mesh.shape.get("model", 1) > 1 else None


@jax.custom_vjp
def _product(x: Float[Array, "*B D"], w_DE: Float[Array, "D E"]) -> Float[Array, "*B E"]:
    return x @ w_DE.astype(x.dtype)


def _forward(x: Float[Array, "*B D"], w_DE: Float[Array, "D E"]) -> tuple[Array, tuple[Array, Array]]:
    return _product(x, w_DE), (x, w_DE)


def _backward(kept: tuple[Array, Array], grad: Float[Array, "*B E"]) -> tuple[Array, Array]:
    """Computes the gradient of W as X^T G. JAX derives (G^T X)^T, and its transpose takes a quarter of a training step
    on a CPU (benchmarks/train_step.py)."""
    x, w_DE = kept
    x_XD, grad_XE = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
    grad_DE = jnp.einsum("XD,XE->DE", x_XD, grad_XE, preferred_element_type=w_DE.dtype)
    return grad @ w_DE.astype(x.dtype).T, grad_DE


_product.defvjp(_forward, _backward)
