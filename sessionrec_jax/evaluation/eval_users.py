"""The number of held-out users that a run scores where data.eval_users is auto: all, or as many as cost a fifth of its
training.

The costs are FLOPs in closed form (model/count.py), so that every machine chooses the same number. The runs of a plan
get one number, because they are compared on the same users.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sessionrec_jax.config.settings import AUTO, Config
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.batches import train_catalogue, train_windows
from sessionrec_jax.data.codes import TEST, VALIDATION
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.data.synthetic.known import known_truth
from sessionrec_jax.model import count
from sessionrec_jax.model.spec import Spec
from sessionrec_jax.model.spec_of_log import spec_of

SHARE = 1 / 5
"""FLOPs that evaluation may take, over those of training."""
FEWEST = 500
"""Users that are scored at least: with fewer, standard errors are too large to compare runs."""


class Chosen(NamedTuple):
    """Runs with one number for data.eval_users."""

    configs: list[Config]
    sentence: str | None
    """Says which users are left out and why; None if all are scored, or the number was given."""


def with_eval_users(configs: Sequence[Config], prepared: Prepared) -> Chosen:
    """Returns resolved `configs`, where those that leave `data.eval_users` open all get the same number: 0, which is
    all, if the evaluations of these runs together take at most SHARE of their training; else the number that does, to
    two digits, but at least FEWEST."""
    open_ones = [config for config in configs if config.data.eval_users == AUTO]
    users = max(len(prepared.users_of(role)) for role in (VALIDATION, TEST))
    if not open_ones or users <= FEWEST:
        return Chosen([_with(config, 0) for config in configs], None)
    costs = [_cost(config, prepared) for config in open_ones]
    training, a_user = sum(cost.training for cost in costs), sum(cost.evaluating_a_user for cost in costs)
    number = max(FEWEST, _two_digits(SHARE * training / a_user))
    if number >= users:
        return Chosen([_with(config, 0) for config in configs], None)
    return Chosen(
        [_with(config, number) for config in configs],
        f"evaluation scores the first {number:,} of {users:,} held-out users, which takes about "
        f"{number * a_user / training:.2g} times the FLOPs of training; --data.eval-users 0 scores all",
    )


def _with(config: Config, number: int) -> Config:
    if config.data.eval_users != AUTO:
        return config
    return replace(config, {"data.eval_users": number, "data.eval_users_auto": True})


def _two_digits(number: float) -> int:
    """Rounds down to two digits."""
    unit = 10 ** max(0, len(str(int(number))) - 2)
    return int(number) // unit * unit


class _Cost(NamedTuple):
    """FLOPs of a run."""

    training: float
    evaluating_a_user: float
    """All passes over the held-out sessions, for a user of each role."""


def _cost(config: Config, prepared: Prepared) -> _Cost:
    spec = spec_of(config, prepared, train_catalogue(config, prepared))
    passes = {VALIDATION: 1 + config.train.validations, TEST: 1}
    a_user = sum(times * _evaluating_a_user(config, prepared, spec, role) for role, times in passes.items())
    return _Cost(_training(config, prepared, spec), a_user)


def _training(config: Config, prepared: Prepared, spec: Spec) -> float:
    data = config.data
    if data.fresh != "no":
        categories, steps = known_truth(prepared).process.categories, data.fresh_steps
        return count.flops_train_fresh(spec, sessions=data.fresh_sessions, steps=steps, categories=categories)
    windows, epochs = train_windows(config, prepared), config.train.epochs
    sessions, items = epochs * windows.sessions_W.sum(), epochs * windows.items_W.sum()
    steps = max(sessions / data.sessions_per_row, items / data.items_per_row) / data.rows
    return count.flops_train(spec, config.loss, items=int(items), sessions=int(sessions), steps=int(steps))


def _evaluating_a_user(config: Config, prepared: Prepared, spec: Spec, role: int) -> float:
    """Returns the mean FLOPs of one pass over a user's sessions of `role`: encoding the history, and scoring the
    catalogue once for each session."""
    users, log = prepared.users_of(role), prepared.arrays()
    if not len(users):
        return 0.0
    first_U, end_U = log.user_session_offsets_U1[users], log.user_session_offsets_U1[users + 1]
    targets_S1 = np.append(0, np.cumsum(log.session_role_S == role))
    scored = config.data.eval_candidates == "catalogue"
    items_S1 = log.session_item_offsets_S1
    sessions, items = int((end_U - first_U).sum()), int((items_S1[end_U] - items_S1[first_U]).sum())
    flops = count.flops_evaluate(
        spec,
        items=items,
        sessions=sessions if config.paradigm == "nspp" else items,
        scored=int((targets_S1[end_U] - targets_S1[np.minimum(first_U + 1, end_U)]).sum()) if scored else 0,
    )
    return flops / len(users)
