"""The cost of a training step: next-item prediction against next-session prediction, at equal history.

    python benchmarks/paradigm_cost.py

Both read the same exposures of the same users: 4 users of exactly 32 sessions, one user a row. NSPP has 32 slots a
row; NIPP+ makes every exposure a slot of its own, 32 x items of them. Sessions grow from 1 to 40 items.
Measured are the step time, in turns; the peak memory by XLA's analysis of the compiled step (arguments + outputs -
what they share + temporary buffers); and the training FLOPs by sessionrec_jax.model.count. `growth` is the
least-squares slope of their logarithms over the logarithm of the items from 5 up: an exponent over these sizes, not a
limit. Above 1 NSPP is the cheaper one.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median
from typing import Any

import jax
import numpy as np
from _bench import in_turns, ratio, report, significant

from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.batches import Batch, BatchShape, Packer
from sessionrec_jax.data.catalogue import from_counts
from sessionrec_jax.data.codes import CLICKED, IGNORED, TRAIN
from sessionrec_jax.data.item_level import slots
from sessionrec_jax.data.store import FlatLog
from sessionrec_jax.data.windows import make_windows
from sessionrec_jax.devices.mesh import make_mesh, replicated
from sessionrec_jax.devices.placement import put_batch, put_replicated, put_side
from sessionrec_jax.loss.negatives import proposal
from sessionrec_jax.model import count
from sessionrec_jax.model.spec import Spec
from sessionrec_jax.training.step import FixedArrays, Scalars, initial_state, make_step

USERS, SESSIONS, CATALOGUE = 4, 32, 4_096
RUNS = {1: 30, 2: 30, 5: 20, 10: 15, 20: 9, 40: 5}  # by items a session
HEADLINE, GROWTH_FROM = 20, 5
OVERRIDES = {"mesh.data": 1, "data.rows": USERS, "model.width": 64, "model.layers": 2}
FEEDBACK_KINDS = 2


@dataclass(frozen=True)
class Contender:
    """One compiled step and its costs."""

    step: Callable[[], Any]
    exposures: int
    peak_bytes: int
    flops: float
    attention_flops: float
    """The part of `flops` that multiplies slots by slots: the work that a longer row adds to a slot."""


def main() -> None:
    cases = [case(items, runs) for items, runs in RUNS.items()]
    headline = next(of for of in cases if of["items_per_session"] == HEADLINE)
    report(
        "training step of NIPP+ against NSPP at equal history",
        f"seconds of a step of NIPP+ / of NSPP, {HEADLINE} items a session",
        **{name: headline[name] for name in ("ratio", "ratio_lowest", "ratio_highest")},
        growth={name: growth(cases, name) for name in ("nspp", "nipp_plus")},
        growth_from_items=GROWTH_FROM,
        cases=cases,
        rows=USERS,
        sessions_per_row=SESSIONS,
        memory="XLA memory analysis: arguments + outputs - aliased + temporary",
        flops_convention=count.FLOPS_CONVENTION,
        device_kind=jax.devices()[0].device_kind,
        jax_version=jax.__version__,
    )


def case(items: int, runs: int) -> dict[str, float]:
    log = equal_sessions(items)
    with ThreadPoolExecutor() as pool:  # most of the minutes go into compiling, one core a program
        nspp, nipp_plus = pool.map(lambda paradigm: contender(paradigm, log, items), ("nspp", "nipp_plus"))
    if nspp.exposures != nipp_plus.exposures:
        raise RuntimeError(f"a step of NSPP reads {nspp.exposures} exposures, one of NIPP+ {nipp_plus.exposures}")
    of_nspp, of_nipp_plus = in_turns(runs, nspp.step, nipp_plus.step)
    return {
        "items_per_session": items,
        **ratio(of_nipp_plus, of_nspp),
        "nspp_ms": significant(1e3 * median(of_nspp)),
        "nipp_plus_ms": significant(1e3 * median(of_nipp_plus)),
        "nspp_mb": significant(nspp.peak_bytes / 1e6),
        "nipp_plus_mb": significant(nipp_plus.peak_bytes / 1e6),
        "ratio_memory": significant(nipp_plus.peak_bytes / nspp.peak_bytes),
        "nspp_flops": significant(nspp.flops),
        "nipp_plus_flops": significant(nipp_plus.flops),
        "ratio_flops": significant(nipp_plus.flops / nspp.flops),
        "nspp_attention_share": significant(nspp.attention_flops / nspp.flops),
        "nipp_plus_attention_share": significant(nipp_plus.attention_flops / nipp_plus.flops),
        "exposures": nspp.exposures,
        "runs": runs,
    }


def equal_sessions(items: int) -> FlatLog:
    """Makes USERS x SESSIONS sessions of exactly `items` random exposures. Every other exposure is clicked."""
    sessions, exposures = USERS * SESSIONS, USERS * SESSIONS * items
    return FlatLog(
        item_N=np.random.default_rng(0).integers(1, CATALOGUE + 1, exposures, dtype=np.int32),
        feedback_N=np.where(np.arange(exposures) % 2, CLICKED, IGNORED).astype(np.int8),
        session_items_S=np.full(sessions, items, np.int32),
        session_seconds_S=np.tile(86_400 * np.arange(SESSIONS), USERS),
        session_role_S=np.full(sessions, TRAIN, np.int8),
        user_session_offsets_U1=SESSIONS * np.arange(USERS + 1),
    )


def contender(paradigm: str, log: FlatLog, items: int) -> Contender:
    """Compiles the step that `sessionrec train` would run on these histories."""
    row_slots = SESSIONS if paradigm == "nspp" else SESSIONS * items
    config = replace(Config(), OVERRIDES | {"paradigm": paradigm, "data.sessions_per_row": row_slots})
    batch = full_batch(config, log, BatchShape(1, USERS, row_slots, SESSIONS * items))
    clicks_V, exposures_V = (
        np.bincount(log.item_N[of_N], minlength=CATALOGUE + 1) for of_N in (log.feedback_N == CLICKED, slice(None))
    )
    catalogue = from_counts(clicks_V, exposures_V, {}, {})
    longest = items if paradigm == "nspp" else 1
    spec = Spec(
        model=config.model, ids=CATALOGUE + 1, side_values=(), feedback_kinds=FEEDBACK_KINDS,
        max_positions=row_slots, session_items=longest,
    )  # fmt: skip
    mesh = make_mesh(config.mesh)
    side = put_side(catalogue.side, spec.rows, mesh)
    of_negatives = put_replicated(proposal(config.loss, catalogue), mesh)
    scalars = put_replicated(Scalars(np.float32(config.optim.learning_rate_peak), np.float32(0)), mesh)
    inputs, fixed = put_batch(batch, mesh), FixedArrays(side, of_negatives)
    of_run = {"key": jax.device_put(jax.random.key(0), replicated(mesh)), "scalars": scalars}
    state = initial_state(config, spec, catalogue, mesh)
    compiled = make_step(spec, config.loss, config.optim, mesh).lower(state, inputs, fixed, **of_run).compile()

    def step() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(compiled(state, inputs, fixed, **of_run))

    def flops(positions: int) -> float:
        seen = {"items": log.item_N.size, "sessions": batch.user_of_session_GRL.size, "steps": 1}
        return count.flops_train(spec._replace(max_positions=positions), config.loss, **seen)

    memory = compiled.memory_analysis()
    peak_bytes = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    peak_bytes += memory.temp_size_in_bytes
    exposures = int(np.count_nonzero(batch.item_GT))
    attention_flops = flops(row_slots) - flops(0)
    return Contender(step, exposures, peak_bytes, flops=flops(row_slots), attention_flops=attention_flops)


def full_batch(config: Config, log: FlatLog, shape: BatchShape) -> Batch:
    """Returns the one batch of the log in the paradigm's slots. No padding: neither side is to pay for it."""
    view = slots(log, config.paradigm)
    users, sessions, items = np.arange(log.users), shape.sessions_per_row, shape.items_per_row
    windows = view.to_stored(make_windows(view.log, users, TRAIN, sessions=sessions, items=items))
    packer = Packer(windows, shape, 1.0, 0)
    counts = packer[0].counts()
    if len(packer) != 1 or (counts.items, counts.sessions) != (counts.item_slots, counts.session_slots):
        raise RuntimeError(f"wanted one batch without padding; came {len(packer)} batches, the first with {counts}")
    return packer[0]


def growth(cases: list[dict[str, float]], paradigm: str) -> dict[str, float]:
    """Returns d log cost / d log items a session, by least squares."""
    large = [of for of in cases if of["items_per_session"] >= GROWTH_FROM]
    log_items = np.log([of["items_per_session"] for of in large])
    costs = {"time": "ms", "memory": "mb", "flops": "flops"}
    return {
        cost: significant(float(np.polyfit(log_items, np.log([of[f"{paradigm}_{unit}"] for of in large]), 1)[0]))
        for cost, unit in costs.items()
    }


if __name__ == "__main__":
    main()
