"""The Zipf-intent process on the device: sessions drawn inside the jitted training step, with no log and no input.

    tables = process_tables(truth, dense_id_K)
    sessions = draw(tables, key, Draw(rows=2_048, history=1, labels="expected", process=process))

A row is one user with `history` sessions, of which each is its anchor, and the interest drifts from one to the next as
in process.py. The label of a session is the session after it, by category: how many exposures of the category it shows
and how many clicks they get. The draws have the distribution of process.py and other random numbers. A probability is a
whole number of tickets, the 2^32 values of a draw, so it is exact to 2^-32; float32 could not
distinguish rare items.

Letters: B rows, L sessions of a row, E exposures of a session, K items by popularity rank, C categories, W words of 32
coins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from sessionrec_jax.data.synthetic.process import ZipfIntent
from sessionrec_jax.data.synthetic.truth import Truth
from sessionrec_jax.errors import InputError

_TICKETS = 2**32
_COINS = 32


class ProcessTables(NamedTuple):
    """The facts of a process as arrays; every K is ordered by popularity, the most popular item first."""

    first_K: UInt32[Array, " K"]
    """The tickets from first_K[k] up to the next item's draw item k."""
    item_K: Int[Array, " K"]
    """Dense id in the prepared log."""
    coins_KW: UInt32[Array, "K W"]
    """Bit c of an item's words is the coin of (item, category c)."""
    shown_C: Int[Array, " C"]
    """Dense id of the most popular item of each category; 0 for a category without items."""
    mass_C: Float[Array, " C"]
    """Share of the exposures that a category has; sums to 1."""
    first_C: UInt32[Array, " C"]
    """First ticket of each category."""
    click_end_2C: UInt32[Array, "2 C"]
    """An exposure whose ticket is in its category's range and below this is clicked: coin low, coin high."""
    next_click_2C: Float[Array, "2 C"]
    """Click probability in the session after the one that shows the interest: coin low, coin high."""
    exposures_first_E: UInt32[Array, " E"]
    """First ticket of each number of exposures, from 1."""


def process_tables(truth: Truth, dense_id_K: np.ndarray) -> ProcessTables:
    """Returns the tables of a process. `dense_id_K`: the prepared log's id of each item_id, 0 for none.

    Raises InputError if the log lacks items of the process, because a session may show any of them.
    """
    process = truth.process
    if len(dense_id_K) != process.item_count or not dense_id_K.all():
        missing = process.item_count - np.count_nonzero(dense_id_K)
        raise InputError(
            f"--data.fresh draws any of the process's {process.item_count:,} items, and the log lacks {missing:,} of "
            "them; prepare it with its item table"
        )
    rank_K = np.argsort(-truth.popularity_K, kind="stable")
    words = -(-process.categories // _COINS)
    coin_KC = np.pad(truth.coin_ZC[rank_K], ((0, 0), (0, words * _COINS - process.categories)))
    bit_C = (1 << np.arange(_COINS, dtype=np.uint64)).astype(np.uint32)
    coins_KW = (coin_KC.reshape(-1, words, _COINS) * bit_C).sum(-1, dtype=np.uint32)
    end_C = _ends(truth.category_mass_C)
    first_C = np.append(0, end_C[:-1])
    shown_C = np.zeros(process.categories, np.int32)
    item_K = dense_id_K[rank_K].astype(np.int32)
    shown_C[truth.category_K[rank_K][::-1]] = item_K[::-1]  # the last one written is the most popular
    theta_21 = np.array([[process.click_low], [process.click_high]])
    return ProcessTables(
        first_K=jnp.asarray(_firsts(_ends(truth.popularity_K[rank_K]))),
        item_K=jnp.asarray(item_K),
        coins_KW=jnp.asarray(coins_KW),
        shown_C=jnp.asarray(shown_C),
        mass_C=jnp.asarray(truth.category_mass_C.astype(np.float32)),
        first_C=jnp.asarray(_firsts(end_C)),
        click_end_2C=jnp.asarray((first_C + np.rint(theta_21 * (end_C - first_C))).astype(np.uint32)),
        next_click_2C=jnp.asarray(truth.click_probability_2C.astype(np.float32)),
        exposures_first_E=jnp.asarray(_firsts(_ends(process.exposures_probability_E))),
    )


def _ends(probability_X: np.ndarray) -> np.ndarray:
    """Returns one past the last ticket of each value."""
    return np.rint(np.cumsum(probability_X) / probability_X.sum() * _TICKETS).astype(np.int64)


def _firsts(end_X: np.ndarray) -> np.ndarray:
    """Returns the first ticket of each value; values after the last ticket begin at the last one, not at 0 again."""
    return np.minimum(np.append(0, end_X[:-1]), _TICKETS - 1).astype(np.uint32)


@dataclass(frozen=True)
class Draw:
    """The static settings of a draw."""

    process: ZipfIntent
    rows: int
    history: int
    labels: Literal["sampled", "expected"]


class FreshSessions(NamedTuple):
    """Sessions of one step, and the session after each of them."""

    anchor_BL: Int[Array, "B L"]
    """Dense id of the item that the session shows."""
    exposures_BLC: Float[Array, "#B #L C"]
    """Exposures of each category in the next session; `expected`: the share of each category, the same for all."""
    clicks_BLC: Float[Array, "B L C"]
    """Clicks among them; `expected`: the share times the exact click probability, given the history."""


def draw(tables: ProcessTables, key: Array, how: Draw) -> FreshSessions:
    """Returns the sessions of one step. They depend on the key alone, not on the devices that make them."""
    interest_key, turn_key, keep_key, shown_key = jax.random.split(key, 4)
    sessions = how.history + (how.labels == "sampled")  # the next session's own interest decides a sampled click
    ticket_BL = jax.random.bits(interest_key, (how.rows, sessions), jnp.uint32)
    if how.labels == "expected":
        turn = jax.random.bits(turn_key, (), jnp.uint32)
        ticket_BL = ticket_BL.at[:, 0].set(_spread(ticket_BL[:, 0], turn))
    drawn_BL = jnp.searchsorted(tables.first_K, ticket_BL, side="right") - 1
    rank_BL = _with_drift(drawn_BL, keep_key, how.process.keep_interest) if sessions > 1 else drawn_BL
    anchor_BL = tables.item_K[rank_BL[:, : how.history]]
    if how.labels == "expected":
        clicks_BLC = tables.mass_C * _by_coin(tables, rank_BL, tables.next_click_2C)
        return FreshSessions(anchor_BL, tables.mass_C[None, None], clicks_BLC)
    return FreshSessions(anchor_BL, *_shown(tables, shown_key, rank_BL[:, 1:]))


def _spread(ticket_B: UInt32[Array, " B"], offset: UInt32[Array, ""]) -> UInt32[Array, " B"]:
    """Returns tickets of which one is in each of B equal ranges, turned by `offset` so that each alone is uniform.

    Gradients of expected labels have less noise than from independent draws, and the same mean.
    """
    width = np.uint32(_TICKETS // len(ticket_B)) if len(ticket_B) > 1 else np.uint32(_TICKETS - 1)
    return jnp.arange(len(ticket_B), dtype=jnp.uint32) * width + ticket_B % width + offset


def _with_drift(drawn_BL: Int[Array, "B L"], key: Array, keep: float) -> Int[Array, "B L"]:
    """Returns the interests: that of a session which keeps its predecessor's is the last one drawn before it."""
    kept_BL = jax.random.bits(key, drawn_BL.shape, jnp.uint32) < np.uint32(min(keep * _TICKETS, _TICKETS - 1))
    place_BL = jnp.where(kept_BL.at[:, 0].set(False), 0, jnp.arange(drawn_BL.shape[1]))
    return jnp.take_along_axis(drawn_BL, jax.lax.cummax(place_BL, axis=1), axis=1)


def _by_coin(tables: ProcessTables, rank_BL: Int[Array, "B L"], value_2C: Array) -> Array:
    """Returns the low or the high value of each category, by the coins of each interest."""
    categories = value_2C.shape[1]
    words_BLW = tables.coins_KW[rank_BL]
    bit_C = np.arange(categories) % _COINS
    coin_BLC = words_BLW[..., np.arange(categories) // _COINS] >> bit_C.astype(np.uint32) & np.uint32(1)
    return jnp.where(coin_BLC == 1, value_2C[1], value_2C[0])


def _shown(
    tables: ProcessTables, key: Array, rank_BL: Int[Array, "B L"]
) -> tuple[Float[Array, "B L C"], Float[Array, "B L C"]]:
    """Returns the exposures and clicks of sessions with these interests, by category."""
    count_key, ticket_key = jax.random.split(key)
    most = len(tables.exposures_first_E)
    count_ticket_BL = jax.random.bits(count_key, rank_BL.shape, jnp.uint32)
    count_BL1 = jnp.searchsorted(tables.exposures_first_E, count_ticket_BL, side="right")[..., None]
    ticket_BLE = jax.random.bits(ticket_key, (*rank_BL.shape, most), jnp.uint32)
    is_shown_BLE = jnp.arange(most) < count_BL1
    click_end_BLC = _by_coin(tables, rank_BL, tables.click_end_2C)

    def below(end: Array) -> Float[Array, "B L"]:
        return jnp.sum(is_shown_BLE & (ticket_BLE < end), axis=-1, dtype=jnp.float32)

    # The exposures below a category's end, less those below its first ticket; nothing is below ticket 0.
    first_CBL = jnp.stack([below(first) for first in tables.first_C])
    end_CBL = jnp.concatenate([first_CBL[1:], count_BL1[..., 0].astype(jnp.float32)[None]])
    clicks_CBL = jnp.stack([below(click_end_BLC[..., c, None]) for c in range(len(tables.first_C))]) - first_CBL
    return jnp.moveaxis(end_CBL - first_CBL, 0, -1), jnp.moveaxis(clicks_CBL, 0, -1)
