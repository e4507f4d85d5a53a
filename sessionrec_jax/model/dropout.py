"""Dropout whose masks belong to the rows of the whole batch, so that they do not depend on the devices.

Letters: R rows, L session slots, D width, K layers.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

_SLOTS = 2**32 - 1  # no row has this number


class Noise(NamedTuple):
    """Randomness of one training step's dropout, by global row, so that it does not depend on the devices."""

    key: Array
    row_R: Int[Array, " R"]
    """Number of each row in the whole batch."""


def row_keys(noise: Noise) -> Key[Array, " R"]:
    """One key a row: fold_in(key, row number)."""
    return jax.vmap(jax.random.fold_in, (None, 0))(noise.key, noise.row_R)


def kept_slots(noise: Noise, rate: float, slots: int) -> Bool[Array, "R L"]:
    """True with probability 1 - rate, slot by slot; independent of `drop`."""
    key_R = row_keys(noise._replace(key=jax.random.fold_in(noise.key, _SLOTS)))
    return jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, (slots,)))(key_R)


def layer_keys(key_R: Key[Array, " R"], layers: int) -> Key[Array, "K R"]:
    """One key a layer and row: fold_in(row's key, layer), layers counted from 1; 0 is the session vectors' own."""
    fold_rows = jax.vmap(jax.random.fold_in, (0, None))
    return jax.vmap(fold_rows, (None, 0))(key_R, 1 + jnp.arange(layers))


def drop(
    x_RLD: Float[Array, "R L D"], rate: float, key_R: Key[Array, " R"] | None, site: int = 0
) -> Float[Array, "R L D"]:
    """Each value is zero with probability `rate`, else divided by 1 - rate, so that its mean stays (Srivastava et al.
    2014). `site` tells the uses of one key apart. No key: `x_RLD` as it is."""
    if key_R is None or rate == 0:
        return x_RLD

    def of_row(key: Key[Array, ""], x_LD: Float[Array, "L D"]) -> Float[Array, "L D"]:
        kept_LD = jax.random.bernoulli(jax.random.fold_in(key, site), 1 - rate, x_LD.shape)
        return jnp.where(kept_LD, x_LD / (1 - rate), 0)

    return jax.vmap(of_row)(key_R, x_RLD)
