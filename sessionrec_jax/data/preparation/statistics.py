"""The numbers and distributions of a prepared log, counted group by group.

Letters: as in store.FlatLog; V dense items.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Int64

from sessionrec_jax.data.codes import CLICKED, ROLES, TEST, TRAIN
from sessionrec_jax.data.preparation.histories import PreparedUsers
from sessionrec_jax.data.session_context import ContextCounts
from sessionrec_jax.data.store import FlatLog
from sessionrec_jax.errors import InputError

_QUANTILES = (0.1, 0.5, 0.9, 0.99, 1.0)
_RANKS = 100
_HOUR_SECONDS = 3600


class UserStatistics(NamedTuple):
    """Counts over some users."""

    users: pl.DataFrame
    """user_id, and for each role its sessions, exposures and targets (sessions that follow another)."""
    items: pl.DataFrame
    """item, training clicks, training exposures (labelled), train (all training exposures), test_clicks, any (all
    exposures)."""
    clicks: int
    labelled: int
    """Exposures that are not context."""
    sessions_by_items: pl.DataFrame
    """items, sessions: the number of sessions by their number of exposures."""
    time_range_ms: tuple[int, int] | None
    session_context: dict[str, ContextCounts]
    training_by_hour: pl.DataFrame
    """hour (since 1970), exposures: the training exposures by the hour in which their session begins."""
    first_test_hour: int | None
    """The hour of the first session that is held out for test."""
    lost_clicks: int
    """Clicks past the longest length of a session."""
    overlapping: int
    """Sessions that begin before an earlier one of their user has ended."""


def count_users(users: PreparedUsers, context_values: Mapping[str, pl.Series]) -> UserStatistics:
    """Counts over some users. `context_values`: all values of each column of session context."""
    log = users.log
    is_train_N = np.repeat(log.session_role_S == TRAIN, log.session_items_S)
    is_click_N, is_labelled_N = log.feedback_N == CLICKED, log.feedback_N <= CLICKED
    is_test_S = log.session_role_S == TEST
    is_test_N = np.repeat(is_test_S, log.session_items_S)
    by_exposure = {
        "item": log.item_N,
        "clicks": is_train_N & is_click_N,
        "exposures": is_train_N & is_labelled_N,
        "train": is_train_N,
        "test_clicks": is_test_N & is_click_N,
    }
    sums = pl.col("clicks", "exposures", "train", "test_clicks").sum().cast(pl.Int64)
    return UserStatistics(
        users=users.ids.select("user_id").with_columns(**_by_role(log)),
        items=pl.DataFrame(by_exposure).group_by("item").agg(sums, any=pl.len()),
        clicks=int(is_click_N.sum()),
        labelled=int(is_labelled_N.sum()),
        sessions_by_items=_value_counts(log.session_items_S, "items", "sessions"),
        time_range_ms=users.time_range_ms,
        session_context={name: _context(users, name, len(values) + 1) for name, values in context_values.items()},
        training_by_hour=_by_hour(log, log.session_role_S == TRAIN),
        first_test_hour=int(log.session_seconds_S[is_test_S].min() // _HOUR_SECONDS) if is_test_S.any() else None,
        lost_clicks=users.lost_clicks,
        overlapping=users.overlapping,
    )


def _by_hour(log: FlatLog, chosen_S: np.ndarray) -> pl.DataFrame:
    hours = {"hour": log.session_seconds_S[chosen_S] // _HOUR_SECONDS, "exposures": log.session_items_S[chosen_S]}
    return pl.DataFrame(hours).group_by("hour").agg(pl.col("exposures").cast(pl.Int64).sum())


def _context(users: PreparedUsers, name: str, codes: int) -> ContextCounts:
    code_S, is_train_S = users.log.session_context[name], users.log.session_role_S == TRAIN
    return ContextCounts(
        train_M=np.bincount(code_S[is_train_S], minlength=codes),
        all_M=np.bincount(code_S, minlength=codes),
        differing=users.context_differs.get(name, 0),
    )


def _value_counts(values: np.ndarray, name: str, count: str) -> pl.DataFrame:
    value, number = np.unique(values, return_counts=True)
    return pl.DataFrame({name: value.astype(np.int64), count: number.astype(np.int64)})


def _by_role(log: FlatLog) -> dict[str, pl.Series]:
    sessions_U = np.diff(log.user_session_offsets_U1)
    user_S = np.repeat(np.arange(log.users), sessions_U)
    follows_S = np.ones(len(user_S), bool)
    follows_S[log.user_session_offsets_U1[:-1][sessions_U > 0]] = False
    weights = {"sessions": 1, "exposures": log.session_items_S, "targets": follows_S}
    columns = {}
    for code, role in enumerate(ROLES):
        has_role_S = log.session_role_S == code
        for name, weight_S in weights.items():
            count_U = np.bincount(user_S, weights=has_role_S * weight_S, minlength=log.users)
            columns[f"{name}_{role}"] = pl.Series(count_U).cast(pl.Int64)
    return columns


class LogStatistics:
    """Counts over all users. They take 40 bytes of memory an item and about a hundred a user."""

    def __init__(self, items: int):
        counted = ("clicks", "exposures", "train", "test_clicks", "any")
        self._by_item = {name: np.zeros(items + 1, np.int64) for name in counted}
        self._users: list[pl.DataFrame] = []
        self._by_items: list[pl.DataFrame] = []
        self._clicks = self._labelled = 0
        self._ranges_ms: list[tuple[int, int]] = []
        self._by_hour: list[pl.DataFrame] = []
        self._test_hours: list[int] = []
        self._lost_clicks = self._overlapping = 0
        self.session_context: dict[str, ContextCounts] = {}

    def add(self, part: UserStatistics) -> None:
        """Adds the users that follow."""
        for name, count_V in self._by_item.items():
            count_V[part.items["item"].to_numpy()] += part.items[name].to_numpy()
        self._users.append(part.users)
        self._clicks += part.clicks
        self._labelled += part.labelled
        self._by_items.append(part.sessions_by_items)
        if part.time_range_ms is not None:
            self._ranges_ms.append(part.time_range_ms)
        self._by_hour = [
            pl.concat([*self._by_hour, part.training_by_hour]).group_by("hour").agg(pl.col("exposures").sum())
        ]
        self._test_hours += [] if part.first_test_hour is None else [part.first_test_hour]
        self._lost_clicks += part.lost_clicks
        self._overlapping += part.overlapping
        for name, counts in part.session_context.items():
            before = self.session_context.get(name)
            self.session_context[name] = counts if before is None else before.plus(counts)

    def refuse(self) -> None:
        """Raises InputError if no click is left."""
        if not self._clicks:
            raise InputError(
                "no exposure that is left when sessions are cut is clicked, so there is nothing to predict. See "
                "--max-session-items, and the dates of a temporal split"
            )

    def users(self) -> pl.DataFrame:
        """Returns the columns of `UserStatistics.users`, one row a user in the fixed random order."""
        self._users = [pl.concat(self._users)]
        return self._users[0]

    def catalogue(self) -> dict[str, np.ndarray]:
        """Returns the training clicks and the training exposures, clicked or ignored, of each dense item."""
        return {"clicks_V": self._by_item["clicks"], "exposures_V": self._by_item["exposures"]}

    def training_exposures(self) -> Int64[np.ndarray, " V"]:
        """Returns the training exposures of each dense item, context included. V = items + 1; index 0 is padding."""
        return self._by_item["train"]

    def summary(self) -> dict[str, Any]:
        """Returns the manifest's numbers."""
        users, exposures = self.users(), int(self._by_item["any"].sum())
        sessions_U = self._sessions_U()
        sessions = int(sessions_U.sum())
        return {
            "users": len(users),
            "items": len(self._by_item["any"]) - 1,
            "items_exposed": int(np.count_nonzero(self._by_item["any"])),
            "sessions": sessions,
            "exposures": exposures,
            "context_exposures": exposures - self._labelled,
            "clicks": self._clicks,
            "click_rate": self._clicks / self._labelled,
            "sessions_by_role": {role: int(users[f"sessions_{role}"].sum()) for role in ROLES},
            "target_sessions_by_role": {role: int(users[f"targets_{role}"].sum()) for role in ROLES},
            "target_users_by_role": {role: int((users[f"targets_{role}"] > 0).sum()) for role in ROLES},
            "users_without_target": int(np.sum(sessions_U < 2)),
            "items_per_session_mean": exposures / sessions,
            "max_session_items": self._sessions_by_items()["items"].to_list()[-1],
            "sessions_per_user_mean": float(sessions_U.mean()),
            "sessions_per_user_quantiles": {
                str(q): int(np.quantile(sessions_U, q, method="inverted_cdf")) for q in _QUANTILES
            },
            "training_after_first_test": self._training_after_first_test(),
            "test_clicks_on_new_items": self._test_clicks_on_new_items(),
            "lost_clicks": self._lost_clicks,
            "overlapping_sessions": self._overlapping,
            "time_range_ms": [min(first for first, _ in self._ranges_ms), max(last for _, last in self._ranges_ms)],
        }

    def _training_after_first_test(self) -> float | None:
        """Returns the share of the training exposures whose session begins in a later hour than the first test session;
        None without test sessions or training exposures."""
        by_hour = self._by_hour[0]
        if not self._test_hours or not by_hour["exposures"].sum():
            return None
        later = by_hour.filter(pl.col("hour") > min(self._test_hours))["exposures"].sum()
        return int(later) / int(by_hour["exposures"].sum())

    def _test_clicks_on_new_items(self) -> float | None:
        """Returns the share of the test clicks whose item no training session shows; None without test clicks."""
        clicks_V = self._by_item["test_clicks"]
        total = int(clicks_V.sum())
        return int(clicks_V[self._by_item["train"] == 0].sum()) / total if total else None

    def distributions(self) -> dict[str, dict[str, list[int]]]:
        """Returns three tables by column: users by their sessions, sessions by their exposures, and the training clicks
        and exposures of the item at each popularity rank (the first hundred ranks and some beyond)."""
        by_sessions = _value_counts(self._sessions_U(), "sessions", "users")
        return {
            "sessions_per_user": by_sessions.to_dict(as_series=False),
            "items_per_session": self._sessions_by_items().to_dict(as_series=False),
            "popularity": self._popularity(),
        }

    def _popularity(self) -> dict[str, list[int]]:
        falling = {name: np.sort(self._by_item[name][1:])[::-1] for name in ("clicks", "exposures")}
        items = len(falling["clicks"])
        few = np.arange(1, min(items, _RANKS) + 1)
        rank = np.union1d(few, np.geomspace(1, items, _RANKS).astype(np.int64))
        return {"rank": rank.tolist()} | {name: count_V[rank - 1].tolist() for name, count_V in falling.items()}

    def _sessions_U(self) -> np.ndarray:
        return self.users().select(pl.sum_horizontal(f"sessions_{role}" for role in ROLES)).to_series().to_numpy()

    def _sessions_by_items(self) -> pl.DataFrame:
        self._by_items = [pl.concat(self._by_items).group_by("items").agg(pl.col("sessions").sum()).sort("items")]
        return self._by_items[0]
