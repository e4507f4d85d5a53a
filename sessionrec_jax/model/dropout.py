"""Dropout with one mask for each row of the whole batch, so that the masks do not depend on the devices.

Letters: R rows, L session slots, D width, K layers.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

_SLOTS = 2**32 - 1  # no row has this number


class Noise(NamedTuple):
    """The randomness of dropout in one training step."""

    key: Array
    row_R: Int[Array, " R"]
    """The number of each row in the whole batch."""


def row_keys(noise: Noise) -> Key[Array, " R"]:
    """Returns one key for each row: fold_in(key, row number)."""
    return jax.vmap(jax.random.fold_in, (None, 0))(noise.key, noise.row_R)


def kept_slots(noise: Noise, rate: float, slots: int) -> Bool[Array, "R L"]:
    """Returns True with probability 1 - rate for each slot, independent of `drop`."""
    key_R = row_keys(noise._replace(key=jax.random.fold_in(noise.key, _SLOTS)))
    return jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, (slots,)))(key_R)


def layer_keys(key_R: Key[Array, " R"], layers: int) -> Key[Array, "K R"]:
    """Returns one key for each layer and row: fold_in(row's key, layer). Layers count from 1; the session vectors use
    the row's key itself."""
    fold_rows = jax.vmap(jax.random.fold_in, (0, None))
    return jax.vmap(fold_rows, (None, 0))(key_R, 1 + jnp.arange(layers))


def drop(
    x_RLD: Float[Array, "R L D"], rate: float, key_R: Key[Array, " R"] | None, site: int = 0
) -> Float[Array, "R L D"]:
    """Sets each value to zero with probability `rate` and divides the others by 1 - rate, so that the mean stays
    (Srivastava et al. 2014). `site` distinguishes several uses of one key. Without a key x_RLD is returned
    unchanged."""
    if key_R is None or rate == 0:
        return x_RLD

    def drop_row(key: Key[Array, ""], x_LD: Float[Array, "L D"]) -> Float[Array, "L D"]:
        kept_LD = jax.random.bernoulli(jax.random.fold_in(key, site), 1 - rate, x_LD.shape)
        return jnp.where(kept_LD, x_LD / (1 - rate), 0)

    return jax.vmap(drop_row)(key_R, x_RLD)
