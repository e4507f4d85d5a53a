"""What a prepared log says of itself, counted while its users pass by. Letters: as in store.FlatLog; V dense items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Int64

from sessionrec_jax.data import session_context
from sessionrec_jax.data.codes import ROLES
from sessionrec_jax.data.preparation.histories import Histories
from sessionrec_jax.data.store import FlatLog
from sessionrec_jax.errors import InputError

_QUANTILES = (0.1, 0.5, 0.9, 0.99, 1.0)
_RANKS = 100


class Counts(NamedTuple):
    """Of some users."""

    users: pl.DataFrame
    """user_id, and of each role sessions, exposures, and targets (the sessions with one before them)."""
    items: pl.DataFrame
    """item, and of its exposures: clicked, labelled and all ones in training sessions, and all."""
    clicks: int
    labelled: int
    sessions_by_items: pl.DataFrame
    """items, sessions: how many sessions have so many exposures."""
    time_range_ms: tuple[int, int] | None
    session_context: dict[str, session_context.Counts]


def count(of: Histories, context_met: Mapping[str, pl.Series]) -> Counts:
    log = of.log
    is_train_N = np.repeat(log.session_role_S == 0, log.session_items_S)
    is_click_N, is_labelled_N = log.feedback_N == 1, log.feedback_N <= 1
    exposures = pl.DataFrame(
        {
            "item": log.item_N,
            "clicks": is_train_N & is_click_N,
            "exposures": is_train_N & is_labelled_N,
            "train": is_train_N,
        }
    )
    return Counts(
        of.users.select("user_id").with_columns(**_by_role(log)),
        exposures.group_by("item").agg(pl.col("clicks", "exposures", "train").sum().cast(pl.Int64), any=pl.len()),
        int(is_click_N.sum()),
        int(is_labelled_N.sum()),
        _value_counts(log.session_items_S, "items", "sessions"),
        of.time_range_ms,
        {name: _context(of, name, len(values) + 1) for name, values in context_met.items()},
    )


def _context(of: Histories, name: str, codes: int) -> session_context.Counts:
    code_S, is_train_S = of.log.session_context[name], of.log.session_role_S == 0
    by_code = (np.bincount(some_S, minlength=codes) for some_S in (code_S[is_train_S], code_S))
    return session_context.Counts(*by_code, of.context_differs.get(name, 0))


def _value_counts(values: np.ndarray, name: str, count: str) -> pl.DataFrame:
    value, number = np.unique(values, return_counts=True)
    return pl.DataFrame({name: value.astype(np.int64), count: number.astype(np.int64)})


def _by_role(log: FlatLog) -> dict[str, pl.Series]:
    sessions_U = np.diff(log.user_session_offsets_U1)
    user_S = np.repeat(np.arange(log.users), sessions_U)
    has_one_before_S = np.ones(len(user_S), bool)
    has_one_before_S[log.user_session_offsets_U1[:-1][sessions_U > 0]] = False
    weights = {"sessions": None, "exposures": log.session_items_S, "targets": has_one_before_S}
    return {
        f"{what}_{role}": pl.Series(
            np.bincount(user_S, weights=of_role if weight is None else of_role * weight, minlength=log.users)
        ).cast(pl.Int64)
        for code, role in enumerate(ROLES)
        for of_role in [log.session_role_S == code]
        for what, weight in weights.items()
    }


class Tally:
    """Counts over all users. Memory: 32 bytes an item and about a hundred a user."""

    def __init__(self, items: int):
        self._by_item = {name: np.zeros(items + 1, np.int64) for name in ("clicks", "exposures", "train", "any")}
        self._users: list[pl.DataFrame] = []
        self._by_items: list[pl.DataFrame] = []
        self._clicks = self._labelled = 0
        self._ranges_ms: list[tuple[int, int]] = []
        self.session_context: dict[str, session_context.Counts] = {}

    def add(self, part: Counts) -> None:
        """The next users."""
        for name, count_V in self._by_item.items():
            count_V[part.items["item"].to_numpy()] += part.items[name].to_numpy()
        self._users.append(part.users)
        self._clicks += part.clicks
        self._labelled += part.labelled
        self._by_items.append(part.sessions_by_items)
        if part.time_range_ms is not None:
            self._ranges_ms.append(part.time_range_ms)
        for name, of_part in part.session_context.items():
            before = self.session_context.get(name)
            self.session_context[name] = of_part if before is None else before.plus(of_part)

    def refuse(self) -> None:
        """Raises InputError where nothing that is left is clicked."""
        if not self._clicks:
            raise InputError(
                "no exposure that is left when sessions are cut is clicked, so there is nothing to predict. See "
                "--max-session-items, and the dates of a temporal split"
            )

    def users(self) -> pl.DataFrame:
        """One row a user in the fixed random order, with the columns of `Counts.users`."""
        self._users = [pl.concat(self._users)]
        return self._users[0]

    def catalogue(self) -> dict[str, np.ndarray]:
        """Clicks, and exposures that are clicked or ignored, of each dense item in the training sessions."""
        return {"clicks_V": self._by_item["clicks"], "exposures_V": self._by_item["exposures"]}

    def training_exposures(self) -> Int64[np.ndarray, " V"]:
        """Of each dense item in training sessions, context too; V = items + 1, index 0 is padding."""
        return self._by_item["train"]

    def statistics(self) -> dict[str, Any]:
        """The manifest's numbers."""
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
            "max_session_items": int(self._sessions_by_items()["items"].max()),
            "sessions_per_user_mean": float(sessions_U.mean()),
            "sessions_per_user_quantiles": {
                str(q): int(np.quantile(sessions_U, q, method="inverted_cdf")) for q in _QUANTILES
            },
            "time_range_ms": [min(first for first, _ in self._ranges_ms), max(last for _, last in self._ranges_ms)],
        }

    def distributions(self) -> dict[str, dict[str, list[int]]]:
        """Columns: how many users have so many sessions, how many sessions so many exposures, and how often the item of
        a rank was clicked and shown in training, for the first hundred ranks and some beyond."""
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
