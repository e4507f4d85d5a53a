"""What does a training step cost against the same one in PyTorch? By size of the body and of the catalogue.

    pip install -e '.[bench]' && python benchmarks/train_step.py

The mean encoder, the Transformer, sampled softmax against 512 negatives, the pointwise rank loss, AdamW for the body and
lazy Adam for the rows of the tables that a step reads (torch.optim.SparseAdam), in float32 on all cores, activations kept
on both sides; the same batches of 32 rows of 64 sessions of 8 items on average, items by Zipf's law. First both take a
step from the same parameters against the same negatives: losses and gradients must agree to 1e-4. Then they run in turns,
PyTorch eager and compiled, of which the faster one counts at each point. Above 1 ours is faster.
"""

from __future__ import annotations

import argparse
import itertools
from statistics import median
from typing import Any

import jax
import numpy as np
import optax
from _bench import in_turns, need, ratio, report, significant

from sessionrec_jax import count, optim
from sessionrec_jax.config import Loss, Mesh, Model, Optim
from sessionrec_jax.loss import Proposal, sample_negatives
from sessionrec_jax.model import sessionrec
from sessionrec_jax.model.sessionrec import ROW_MULTIPLE, Inputs, Spec
from sessionrec_jax.partition import make_mesh, over_batch, put_replicated, replicated, shardings
from sessionrec_jax.step import Scalars, State, make_step

torch = need("torch", "bench")
import _torch_step  # noqa: E402  (it imports torch)

ROWS, SLOTS, ITEMS, BATCHES = 32, 64, 8, 4
BODIES = {"10k": (16, 2, 2), "100k": (64, 2, 2), "1M": (128, 5, 4), "5M": (256, 6, 8)}
"""Width, layers, heads."""
CATALOGUES = (10_000, 100_000, 1_000_000)
LOSS, RATE = Loss(), 1e-3
OPTIM = Optim(table_update="sparse", table_rule="adam")
NEAR = 1e-4
TURN_SECONDS, RUNS = 0.3, 7


class Ours:
    def __init__(self, spec: Spec, params: Any, batches: list[tuple[Inputs, np.ndarray]], proposal: Proposal):
        mesh = make_mesh(Mesh(data=1))
        self.step = make_step(spec, LOSS, OPTIM, mesh)
        state = State(np.int32(0), params, optim.chain(OPTIM, spec.model).init(params))
        self.state = jax.device_put(state, shardings(mesh, state))
        one_shard = jax.tree.map(lambda x: x[None], batches)
        self.batches = itertools.cycle(jax.device_put(one_shard, over_batch(mesh)))
        key = jax.device_put(jax.random.key(0), replicated(mesh))
        scalars = Scalars(np.float32(RATE), np.float32(0))
        self.rest = ({}, *put_replicated((proposal,), mesh), key, put_replicated(scalars, mesh))

    def __call__(self) -> tuple[float, float]:
        self.state, sums = self.step(self.state, *next(self.batches), *self.rest)
        sums = jax.device_get(sums)
        return sums.retrieval_nats / sums.clicked_items, sums.rank_nats / sums.rank_terms

    def drawn(self) -> np.ndarray:
        """Negatives of the first step, as sessionrec_jax.step draws them."""
        of_step = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), 0)
        negatives = jax.device_get(sample_negatives(of_step, self.rest[1], LOSS.negatives))
        return np.repeat(negatives.item_N, negatives.times_N.astype(int))

    def moments(self) -> dict[str, np.ndarray]:
        body, tables = (mu for _, mu in optax.tree.get_all_with_path(jax.device_get(self.state.optimizer), "mu"))
        if not isinstance(body["heads"]["item_bias"], optax.MaskedNode):
            body, tables = tables, body
        return _torch_step.of_params(body) | {
            "item_table": tables["item_embedding"]["item_table"],
            "item_bias": tables["heads"]["item_bias"],
        }


class Theirs:
    def __init__(self, stepper: Any, batches: list[tuple[Inputs, np.ndarray]]):
        self.stepper = stepper
        self.batches = itertools.cycle([_torch_step.Batch.of(*batch) for batch in batches])

    def __call__(self, draw: np.ndarray | None = None) -> tuple[float, float]:
        drawn = self.stepper.draw(LOSS.negatives) if draw is None else torch.tensor(draw.astype(np.int64))
        return self.stepper(next(self.batches), drawn)


def make_batch(rng: np.random.Generator, items: int) -> tuple[Inputs, np.ndarray]:
    """Four users a row; every session has an item or more, 8 on average, and no slot is empty."""
    sessions = ROWS * SLOTS
    slots = sessions * ITEMS
    item_T = np.minimum(np.exp(rng.random(slots) * np.log(items + 1)), items).astype(np.int32)
    session_T = np.sort(np.concatenate([np.arange(sessions), rng.integers(0, sessions, slots - sessions)]))
    user_RL = np.sort(rng.integers(1, 5, (ROWS, SLOTS)), axis=1).astype(np.int32)
    first_RL = np.stack([np.searchsorted(user_L, user_L) for user_L in user_RL])
    position_RL = (np.arange(SLOTS) - first_RL).astype(np.int32)
    feedback_T = (rng.random(slots) < 0.3).astype(np.int8)
    inputs = Inputs(item_T, feedback_T, session_T.astype(np.int32), user_RL, position_RL, 3600 * position_RL)
    return inputs, (position_RL > 0).reshape(-1)


def contenders(body: str, items: int) -> tuple[Spec, Ours, Theirs, Theirs]:
    width, layers, heads = BODIES[body]
    model = Model(session_encoder="mean", width=width, layers=layers, heads=heads, remat=False)
    spec = Spec(model, items + 1, (), 2, SLOTS, slots_longest(), -(items + 1) % ROW_MULTIPLE)
    rng = np.random.default_rng(0)
    # heads that start at zero would leave most gradients zero
    params = jax.tree.map(
        lambda x: np.asarray(x) + rng.normal(0, 0.02, x.shape).astype(np.float32),
        jax.device_get(sessionrec.random(spec, jax.random.key(0))),
    )
    batches = [make_batch(rng, items) for _ in range(BATCHES)]
    with np.errstate(divide="ignore"):
        q_V = np.concatenate([[0.0], 1 / np.arange(1, items + 1)])
        q_V /= q_V.sum()
        proposal = Proposal(np.log(q_V).astype(np.float32), np.cumsum(q_V).astype(np.float32))
    theirs = (
        Theirs(_torch_step.Stepper(model, OPTIM, LOSS.alpha, RATE, params, *proposal, compiled=compiled), batches)
        for compiled in (False, True)
    )
    return spec, Ours(spec, params, batches, proposal), *theirs


def slots_longest() -> int:
    return ROWS * SLOTS


def assert_same_step(ours: Ours, *theirs: Theirs) -> float:
    """Largest relative difference of a loss, or of a gradient to the largest of its tensor."""
    draw = ours.drawn()
    losses, moments, worst = ours(), ours.moments(), 0.0
    for other in theirs:
        for a, b in zip(losses, other(draw), strict=True):
            worst = max(worst, abs(a - b) / abs(a))
            assert worst < NEAR, f"losses {a}, {b}"
        others = other.stepper.moments()
        assert others.keys() == moments.keys()
        for name, x in moments.items():
            difference = np.abs(x - others[name]).max() / np.abs(x).max()
            assert difference < NEAR, f"gradient of {name}: {difference}"
            worst = max(worst, difference)
    return worst


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bodies", nargs="+", default=list(BODIES))
    parser.add_argument("--catalogues", nargs="+", type=int, default=CATALOGUES)
    args = parser.parse_args()
    import time
    for body in args.bodies:
        for items in args.catalogues:
            start = time.time()
            spec, ours, eager, compiled = contenders(body, items)
            n = count.parameters(spec.model, spec.ids, (), 2, SLOTS).body
            worst = assert_same_step(ours, eager, compiled)
            made = time.time() - start
            def many(c):
                for _ in range(5): c()
            seconds = in_turns(RUNS, *(lambda c=c: many(c) for c in (ours, eager, compiled)))
            ms = [1e3 * median(s) / 5 for s in seconds]
            print(body, n, items, f"worst {worst:.1e} made {made:.0f}s", *(f"{m:.2f}" for m in ms), "eager/ours %.2f compiled/ours %.2f" % (ms[1]/ms[0], ms[2]/ms[0]), flush=True)


if __name__ == "__main__":
    main()
