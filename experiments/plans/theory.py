"""The known truth about a plan's law, on a synthetic log: SWEEP/theory.json, which `sessionrec report` draws too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sessionrec_jax.config.settings import Config
from sessionrec_jax.data.batches import train_users
from sessionrec_jax.data.codes import CLICKED
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.data.synthetic.known import anchors, published_ids
from sessionrec_jax.data.synthetic.truth import Truth
from sessionrec_jax.row_columns import PARAMS, SESSIONS


def theory(
    report: dict[str, Any], configs: Sequence[Config], prepared: Prepared, truth: Truth
) -> dict[str, Any] | None:
    """Returns the keys of `scaling.laws.theory`; None where the truth does not determine the plan's law.

    Args:
      report: the plan's report.json.
      configs: its runs, resolved.
    """
    if report.get("law") not in ("power", "power_floor"):
        return None
    is_rank_loss = report["loss"].startswith("rank_")
    floor = truth.rank_floor_nats_per_exposure if is_rank_loss else truth.retrieval_floor_nats_per_item
    curve: list[list[float]] = []
    note = "Zipf-intent process: exact floor; "
    if report["d"] == PARAMS and not configs[0].model.id_width:  # else the ID table stores the facts
        exponent = truth.capacity_exponent
        note += "excess ~ N^-alpha where N alone is short, of facts that the body stores"
    elif report["d"] == SESSIONS:
        exponent = truth.data_exponent
        note += "beta = alpha / (1 + alpha) for an endless catalogue"
        curve = _curve(configs, prepared, truth) if is_rank_loss else []
        if curve:
            note += "; the curve is the Bayes learner that counts each (interest, category) in the same sessions"
    else:
        return None
    return {"exponent": exponent, "floor": floor, "curve": curve, "note": note}


def _curve(configs: Sequence[Config], prepared: Prepared, truth: Truth) -> list[list[float]]:
    """Returns the curve of the Bayes learner on the sessions of the runs; empty where the runs do not see all of them,
    or learn from more than their clicks."""
    labels = {config.data.fresh for config in configs}
    if labels == {"sampled"}:
        return _fresh_counting_curve(configs, prepared)
    if labels == {"no"} and min(config.train.epochs for config in configs) >= 1:
        return _counting_curve(configs, prepared, truth)
    return []


def _fresh_counting_curve(configs: Sequence[Config], prepared: Prepared) -> list[list[float]]:
    """Returns [target sessions, excess rank loss] of the Bayes learner on the sessions that the runs draw, the mean
    over their seeds."""
    from sessionrec_jax.training.fresh_counts import counting_excess

    found: dict[int, list[float]] = {}
    drawn = {(config.train.seed, config.data.rows, config.data.slots): config for config in configs}
    for key, config in drawn.items():
        of_stream = [one for one in configs if (one.train.seed, one.data.rows, one.data.slots) == key]
        steps = sorted({one.data.fresh_steps for one in of_stream})
        for count, excess in zip(steps, counting_excess(config, prepared, steps), strict=True):
            found.setdefault(count * config.data.rows * (config.data.slots - 1), []).append(excess)
    return [[sessions, float(np.mean(excesses))] for sessions, excesses in sorted(found.items())]


def _counting_curve(configs: Sequence[Config], prepared: Prepared, truth: Truth) -> list[list[float]]:
    """Returns [target sessions, excess rank loss] of the Bayes learner on the training users of each size."""
    log, published_V = prepared.arrays(), published_ids(prepared)
    user_S = np.repeat(np.arange(log.users), np.diff(log.user_session_offsets_U1))
    is_target_S = np.append(False, user_S[1:] == user_S[:-1])  # nothing comes before a user's first session
    session_N = np.repeat(np.arange(len(user_S)), log.session_items_S)
    anchor_S, curve = published_V[anchors(log)], []
    for config in {config.data.users: config for config in configs}.values():
        is_trained_S = is_target_S & np.isin(user_S, train_users(config, prepared))
        counted_N = np.flatnonzero(is_trained_S[session_N] & (log.feedback_N <= CLICKED))
        excess = truth.bayes_excess_after(
            anchor_S[session_N[counted_N] - 1], published_V[log.item_N[counted_N]], log.feedback_N[counted_N] == CLICKED
        )
        curve.append([int(is_trained_S.sum()), excess])
    return sorted(curve)
