"""The Zipf-intent process: a session log whose loss floor and learning curve are known exactly (see truth.py).

An item's popularity is a power law of its rank. A user has an interest z (an item), which drifts from session to
session. A session shows z as its anchor (a query) and then items drawn by popularity. Each is clicked with a
probability that depends on one fair coin for (z, category of the item). These are many small facts, and a model learns
them in the order of popularity. Ideas: Hutter, "Learning Curve Theory" (arXiv 2102.04074); Michaud et al., "The
Quantization Model" (2303.13506).

    log = ZipfIntent(users=2_000).exposures(0, 2_000)

Every number is a stateless hash of (seed, purpose, user, session, exposure). So a range of users can be made alone and
in any order, and the first n users of a larger log are the smaller log. Letters: N exposures, S sessions, U users,
K items, C categories.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64, Int64, UInt64
from scipy.optimize import brentq

from doors.bounds import Between, out_of_bounds
from sessionrec_jax.data.ragged import count_up
from sessionrec_jax.errors import InputError

MAX_ITEMS = 2**26
MAX_CATEGORIES = 64  # a (seed, z) hash holds the coins of all categories, one bit each
SECONDS_BETWEEN_EXPOSURES = 2
HOURS_BETWEEN_SESSIONS = (1, 47)  # shortest and longest pause: any gap rule below an hour finds the same sessions
START_MS = 1_704_067_200_000  # 2024-01-01 UTC: the earliest first session
START_SPREAD_MS = 30 * 24 * 3_600_000
USERS_AT_A_TIME = 2_048  # about 260,000 exposures: the work arrays stay in the processor's cache


class _Purpose(enum.IntEnum):
    """The purposes of random numbers: branches of the hash. Renumbering changes every log."""

    PERMUTATION = 1
    CATEGORY = 2
    COIN = 3
    SESSIONS = 4
    START = 5
    PAUSE = 6
    KEEP = 7
    INTEREST = 8
    EXPOSURES = 9
    ITEM = 10
    CLICK = 11


@dataclass(frozen=True)
class ZipfIntent:
    """Settings of the process; the log of user u depends on all of them but `users`."""

    users: Annotated[int, Between(1, 10**9)]
    alpha: Annotated[float, Between(0, 8, above=True)] = 0.5
    """The popularity of the item of rank i is proportional to i^-(1 + alpha)."""
    base: Annotated[int, Between(2, 2**31)] = 32
    """Items have `depth` digits of this base as side information: K = base^depth items."""
    depth: Annotated[int, Between(1, 31)] = 3
    categories: Annotated[int, Between(1, MAX_CATEGORIES)] = 8
    click_low: Annotated[float, Between(0, 1, above=True, below=True)] = 0.05
    """Click probability if the coin of (interest, category) fell low; `click_high` if it fell high."""
    click_high: Annotated[float, Between(0, 1, above=True, below=True)] = 0.5
    keep_interest: Annotated[float, Between(0, 1)] = 0.9
    """Probability that a session keeps its predecessor's interest; otherwise it draws a new one by popularity."""
    exposures_mean: Annotated[float, Between(1, 65_536, above=True)] = 8.0
    """Mean number of exposures a session, without the anchor: geometric, truncated to 1..exposures_max."""
    exposures_max: Annotated[int, Between(1, 65_536)] = 40
    sessions_mean: Annotated[float, Between(2, 65_536, above=True)] = 16.0
    """Mean number of sessions a user: geometric, truncated to 2..sessions_max."""
    sessions_max: Annotated[int, Between(2, 65_536)] = 64
    seed: Annotated[int, Between(0, 2**63 - 1)] = 0

    def check(self) -> ZipfIntent:
        """Returns itself. Raises InputError, which names every setting that cannot work and what it should be."""
        rules = [
            (self.click_low < self.click_high, "click_low", "below click_high"),
            (self.exposures_mean < self.exposures_max, "exposures_mean", "below exposures_max"),
            (self.sessions_mean < self.sessions_max, "sessions_mean", "below sessions_max"),
        ]
        wrong = [*out_of_bounds(self)]
        for holds, name, wanted in rules:
            if not holds:
                wrong.append(f"--{name.replace('_', '-')} is {getattr(self, name)}; wanted it {wanted}")
        if not wrong and self.item_count > MAX_ITEMS:
            wrong = [f"base^depth is {self.base}^{self.depth} items; wanted at most {MAX_ITEMS:,}"]
        if wrong:
            raise InputError("this synthetic log cannot be made: " + "; ".join(wrong))
        return self

    @property
    def item_count(self) -> int:
        """K, the size of the catalogue."""
        return self.base**self.depth

    def items(self) -> pl.DataFrame:
        """Returns the item table: item_id 0..K-1, digit_0 (coarsest) to digit_{depth-1}, category. All are Int64."""
        self.check()
        item_K = np.arange(self.item_count)
        digits = {f"digit_{d}": item_K // self.base ** (self.depth - 1 - d) % self.base for d in range(self.depth)}
        return pl.DataFrame({"item_id": item_K, **digits, "category": self.catalogue.category_K})

    def exposures(self, first_user: int, last_user: int) -> pl.DataFrame:
        """Returns the exposure table (contract 1) of users first_user, ..., last_user - 1, sorted by user and time.

        Columns: user_id, item_id, timestamp_ms (Int64), clicked (Boolean, null for the anchor), session_id (Int64,
        0, 1, ... within the user), feedback ("anchor" or null). Raises InputError for a range outside 0..users.
        """
        self.check()
        if not 0 <= first_user <= last_user <= self.users:
            raise InputError(
                f"users {first_user} to {last_user} were asked for; this log has the users 0 to {self.users}"
            )
        starts = range(first_user, last_user, USERS_AT_A_TIME)
        parts = [self._part(start, min(start + USERS_AT_A_TIME, last_user)) for start in starts]
        return pl.concat(parts) if parts else self._part(first_user, first_user)

    @cached_property
    def catalogue(self) -> ProcessItems:
        """The popularity and category of each item."""
        return ProcessItems(self.check())

    @property
    def exposures_probability_E(self) -> Float64[np.ndarray, " E"]:
        """Probability of 1, 2, ..., exposures_max exposures in a session, without the anchor."""
        return np.diff(self._exposures_cdf, prepend=0.0, append=1.0)

    @cached_property
    def _exposures_cdf(self) -> np.ndarray:
        return _truncated_geometric_cdf(1, self.exposures_max, self.exposures_mean)

    @cached_property
    def _sessions_cdf(self) -> np.ndarray:
        return _truncated_geometric_cdf(2, self.sessions_max, self.sessions_mean)

    def _part(self, first_user: int, last_user: int) -> pl.DataFrame:
        catalogue = self.catalogue
        user_U = np.arange(first_user, last_user)
        uniform_U = _uniform(self._key(_Purpose.SESSIONS, user_U))
        sessions_U = 2 + np.searchsorted(self._sessions_cdf, uniform_U, side="right")
        user_of_session_S = np.repeat(np.arange(len(user_U)), sessions_U)
        session_S = count_up(sessions_U)

        def session_key(purpose: _Purpose) -> UInt64[np.ndarray, " S"]:
            return _branch(self._key(purpose, user_U)[user_of_session_S], session_S)

        # The interest of a session is the fresh draw of the last session that did not keep its predecessor's.
        fresh_S = (session_S == 0) | (_uniform(session_key(_Purpose.KEEP)) >= self.keep_interest)
        drawn_at_S = np.maximum.accumulate(np.where(fresh_S, np.arange(len(session_S)), 0))
        interest_S = catalogue.draw(_uniform(session_key(_Purpose.INTEREST)))[drawn_at_S]
        exposures_S = 1 + np.searchsorted(self._exposures_cdf, _uniform(session_key(_Purpose.EXPOSURES)), side="right")

        duration_ms_S = exposures_S * SECONDS_BETWEEN_EXPOSURES * 1000
        shortest_ms, longest_ms = (hours * 3_600_000 for hours in HOURS_BETWEEN_SESSIONS)
        pause_ms_S = shortest_ms + (_uniform(session_key(_Purpose.PAUSE)) * (longest_ms - shortest_ms)).astype(np.int64)
        elapsed_ms_S = np.cumsum(duration_ms_S + pause_ms_S) - (duration_ms_S + pause_ms_S)
        first_session_U = np.cumsum(sessions_U) - sessions_U
        start_ms_U = START_MS + (_uniform(self._key(_Purpose.START, user_U)) * START_SPREAD_MS).astype(np.int64)
        start_ms_S = (start_ms_U - elapsed_ms_S[first_session_U])[user_of_session_S] + elapsed_ms_S

        # Row 0 of a session is its anchor, so a session has 1 + exposures rows.
        session_of_row_N = np.repeat(np.arange(len(session_S)), 1 + exposures_S)
        row_N = count_up(1 + exposures_S)
        anchor_N = row_N == 0
        shown_N = catalogue.draw(_uniform(_branch(session_key(_Purpose.ITEM)[session_of_row_N], row_N)))
        coin_N = coins(self.seed, interest_S)[session_of_row_N] >> catalogue.category_K[shown_N].astype(np.uint64)
        probability_N = np.where(coin_N & np.uint64(1), self.click_high, self.click_low)
        clicked_N = _uniform(_branch(session_key(_Purpose.CLICK)[session_of_row_N], row_N)) < probability_N

        anchor = pl.Series(anchor_N)
        return pl.DataFrame(
            {
                "user_id": user_U[user_of_session_S][session_of_row_N],
                "item_id": np.where(anchor_N, interest_S[session_of_row_N], shown_N),
                "timestamp_ms": start_ms_S[session_of_row_N] + row_N * (SECONDS_BETWEEN_EXPOSURES * 1000),
                "clicked": clicked_N,
                "session_id": session_S[session_of_row_N],
            }
        ).with_columns(
            clicked=pl.when(~anchor).then("clicked"),
            feedback=pl.when(anchor).then(pl.lit("anchor")),
        )

    def _key(self, purpose: _Purpose, counter_N: Int64[np.ndarray, " N"]) -> UInt64[np.ndarray, " N"]:
        return _keys(self.seed, purpose, counter_N)


SMALL = ZipfIntent(users=2_000, base=16)
"""4,096 items and about a quarter of a million exposures: seconds."""


class ProcessItems:
    """The items of a process: popularity_K (sums to 1) and category_K, both by item_id."""

    def __init__(self, process: ZipfIntent):
        item_K = np.arange(process.item_count)
        popularity_by_rank_K = (1.0 + item_K) ** -(1.0 + process.alpha)
        popularity_by_rank_K /= popularity_by_rank_K.sum()
        self._item_by_rank_K = np.argsort(_keys(process.seed, _Purpose.PERMUTATION, item_K), kind="stable")
        # The last entry is infinite, so that rounding cannot send a number just below 1 past the end.
        self._cdf_by_rank_K = np.append(np.cumsum(popularity_by_rank_K)[:-1], np.inf)
        self.popularity_K: Float64[np.ndarray, " K"] = np.empty(process.item_count)
        self.popularity_K[self._item_by_rank_K] = popularity_by_rank_K
        category_K = _keys(process.seed, _Purpose.CATEGORY, item_K) % np.uint64(process.categories)
        self.category_K: Int64[np.ndarray, " K"] = category_K.astype(np.int64)

    def draw(self, uniform_N: Float64[np.ndarray, " N"]) -> Int64[np.ndarray, " N"]:
        """Draws items by popularity from numbers that are uniform in [0, 1)."""
        return self._item_by_rank_K[np.searchsorted(self._cdf_by_rank_K, uniform_N, side="right")]


def coins(seed: int, interest_N: Int64[np.ndarray, " N"]) -> UInt64[np.ndarray, " N"]:
    """Returns the coins of each interest as bits: bit c is the fair coin of category c, set for high."""
    return _keys(seed, _Purpose.COIN, interest_N)


def coin_table(seed: int, items: int, categories: int) -> Bool[np.ndarray, "K C"]:
    """Returns the coins of all interests and categories, True for high."""
    bits_K1 = coins(seed, np.arange(items))[:, None]
    return (bits_K1 >> np.arange(categories, dtype=np.uint64) & np.uint64(1)).astype(bool)


def _truncated_geometric_cdf(low: int, high: int, mean: float) -> Float64[np.ndarray, " V"]:
    """Returns the cumulative probabilities of low..high-1, for weights r^value with the r that gives this mean."""
    value_V = np.arange(low, high + 1)

    def weights(log_ratio: float) -> np.ndarray:
        return np.exp(log_ratio * np.where(log_ratio < 0, value_V - low, value_V - high))

    log_ratio: Any = brentq(lambda x: np.average(value_V, weights=weights(x)) - mean, -700.0, 700.0, xtol=1e-14)
    weight_V = weights(log_ratio)
    return np.cumsum(weight_V / weight_V.sum())[:-1]


# splitmix64 (Steele, Lea and Flood 2014) as a tree of counter-based streams. A key's children are the outputs of the
# generator whose seed is the key.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _branch(key_N: UInt64[np.ndarray, " #N"], counter_N: Int64[np.ndarray, " #N"]) -> UInt64[np.ndarray, " N"]:
    x = counter_N.astype(np.uint64)
    x += np.uint64(1)
    x *= _GOLDEN
    x += key_N
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def _keys(seed: int, purpose: _Purpose, counter_N: Int64[np.ndarray, " N"]) -> UInt64[np.ndarray, " N"]:
    root_1 = _branch(_branch(np.zeros(1, np.uint64), np.array([seed])), np.array([int(purpose)]))
    return _branch(root_1, counter_N)


def _uniform(key_N: UInt64[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
    """Returns numbers in [0, 1) from the upper 53 bits."""
    return (key_N >> np.uint64(11)) * 2.0**-53
