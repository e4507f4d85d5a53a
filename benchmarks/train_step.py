"""The cost of a training step against the same step in PyTorch, by size of the body and of the catalogue.

    pip install -e '.[bench]'
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python benchmarks/train_step.py [--bodies 10k 100k 1M 5M] [--compile]
    python benchmarks/train_step.py --compute bfloat16 --compile --rows 512 --bodies 5M 20M 75M 300M     # on a GPU

The mean encoder, the Transformer, sampled softmax against 512 negatives, the pointwise rank loss, AdamW for the body
and lazy Adam for the rows of the tables that a step reads (torch.optim.SparseAdam), on all cores or the accelerator
that JAX finds, activations kept on both sides; the same batches of rows of 64 sessions of 8 items on average, items
by Zipf's law. First both take a step from the same parameters against the same negatives: losses and gradients must
agree. Then they run in turns, against draws of their own. Above 1 ours is faster. `cpu` divides CPU seconds instead:
they are steadier if the machine does other work. Without the tunable, whose value the line records, XLA's buffers are
new pages in every step. `flops_utilization`: the step's FLOPs by the closed formula, over its seconds and the rate of
matrix products that JAX reaches here. bfloat16 is autocast in PyTorch, with flash attention on a GPU.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Callable
from statistics import median
from typing import Any, Literal

os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", ".5")  # half of a GPU: the other half is PyTorch's

import jax
import numpy as np
import optax
from _bench import in_turns, need, ratio, report, significant

from sessionrec_jax.config.settings import Loss, Mesh, Model, Optim
from sessionrec_jax.devices.matmul_peak import peak_flops_per_second
from sessionrec_jax.devices.mesh import make_mesh, over_batch, replicated
from sessionrec_jax.devices.placement import ShardedInputs, put_replicated
from sessionrec_jax.devices.sharding import shardings
from sessionrec_jax.loss.negatives import Proposal, sample_negatives, ticketed
from sessionrec_jax.loss.session import Sums
from sessionrec_jax.model import count, sessionrec
from sessionrec_jax.model.spec import Inputs, Spec, extra_rows
from sessionrec_jax.training import optim
from sessionrec_jax.training.step import FixedArrays, Scalars, State, make_step

os.environ.setdefault(
    "OMP_WAIT_POLICY", "passive"
)  # read once, at import; spinning threads would take the other's cores
torch = need("torch", "bench")
import _torch_step  # noqa: E402  (it imports torch)

SLOTS, ITEMS, BATCHES = 64, 8, 4
BODIES = {
    "10k": (16, 2, 2),
    "100k": (64, 2, 2),
    "1M": (128, 5, 4),
    "5M": (256, 6, 8),
    "20M": (512, 6, 8),
    "75M": (1024, 6, 16),
    "300M": (2048, 6, 16),
}
"""Width, layers, heads."""
CATALOGUES = (10_000, 100_000, 1_000_000)
LOSS, RATE = Loss(other_clicks="masked"), 1e-3  # one mask a session, as PyTorch's side has it
OPTIM = Optim(table_update="sparse", table_rule="adam")
NEAR = {("cpu", "float32"): 1e-4, ("gpu", "float32"): 1e-2, ("cpu", "bfloat16"): 0.1, ("gpu", "bfloat16"): 0.1}
"""A GPU multiplies float32 in TF32, of ten bits; bfloat16 has seven."""
TURN_SECONDS, RUNS = 0.3, 7
FEEDBACK_KINDS, SIDES = 2, ("torch", "ours")


class Ours:
    def __init__(self, spec: Spec, params: Any, batches: list[tuple[Inputs, np.ndarray]], proposal: Proposal):
        mesh = make_mesh(Mesh(data=1))
        self.step = make_step(spec, LOSS, OPTIM, mesh)
        state = State(np.int32(0), params, optim.chain(OPTIM, spec.model).init(params))
        self.state = jax.device_put(state, shardings(mesh, spec.model, state))
        one_shard = [
            ShardedInputs(*(x[None] for x in inputs[:6]), target_GS=target_S[None]) for inputs, target_S in batches
        ]
        self.batches = itertools.cycle(jax.device_put(one_shard, over_batch(mesh)))
        key = jax.device_put(jax.random.key(0), replicated(mesh))
        scalars = Scalars(np.float32(RATE), np.float32(0))
        self.fixed = FixedArrays({}, put_replicated(proposal, mesh))
        self.of_run = {"key": key, "scalars": put_replicated(scalars, mesh)}

    def __call__(self) -> Sums:
        self.state, sums = self.step(self.state, next(self.batches), self.fixed, **self.of_run)
        return sums

    @staticmethod
    def losses(sums: Sums) -> tuple[float, float]:
        """Waits for the step and returns retrieval nats per click and rank nats per exposure."""
        sums = jax.device_get(sums)
        return sums.retrieval_nats / sums.clicked_items, sums.rank_nats / sums.rank_terms

    def drawn(self) -> np.ndarray:
        """Returns the negatives of the first step, as sessionrec_jax.training.step draws them."""
        of_step = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), 0)
        negatives = jax.device_get(sample_negatives(of_step, self.fixed.proposal, LOSS.negatives))
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

    def __call__(self, draw: np.ndarray | None = None) -> tuple[Any, Any]:
        drawn = self.stepper.draw(LOSS.negatives) if draw is None else torch.tensor(draw.astype(np.int64))
        return self.stepper(next(self.batches), drawn)

    @staticmethod
    def losses(losses: tuple[Any, Any]) -> tuple[float, float]:
        return losses[0].item(), losses[1].item()


def make_batch(rng: np.random.Generator, items: int, rows: int) -> tuple[Inputs, np.ndarray]:
    """Makes rows of four users. Every session has at least one item, 8 on average, and no slot is empty."""
    sessions = rows * SLOTS
    slots = sessions * ITEMS
    item_T = np.minimum(np.exp(rng.random(slots) * np.log(items + 1)), items).astype(np.int32)
    session_T = np.sort(np.concatenate([np.arange(sessions), rng.integers(0, sessions, slots - sessions)]))
    user_RL = np.sort(rng.integers(1, 5, (rows, SLOTS)), axis=1).astype(np.int32)
    first_RL = np.stack([np.searchsorted(user_L, user_L) for user_L in user_RL])
    position_RL = (np.arange(SLOTS) - first_RL).astype(np.int32)
    feedback_T = (rng.random(slots) < 0.3).astype(np.int8)
    inputs = Inputs(
        item_T=item_T, feedback_T=feedback_T, session_of_item_T=session_T.astype(np.int32),
        user_of_session_RL=user_RL, position_RL=position_RL, seconds_RL=3600 * position_RL,
    )  # fmt: skip
    return inputs, (position_RL > 0).reshape(-1)


def contenders(
    body: str,
    items: int,
    *,
    rows: int,
    compute: Literal["float32", "bfloat16"],
    attention: Literal["auto", "reference", "fused"],
    is_compiled: bool,
) -> tuple[Spec, Ours, Theirs]:
    width, layers, heads = BODIES[body]
    model = Model(
        session_encoder="mean",
        width=width,
        layers=layers,
        heads=heads,
        remat=False,
        compute=compute,
        attention=attention,
    )
    spec = Spec(
        model=model, ids=items + 1, side_values=(), feedback_kinds=FEEDBACK_KINDS, max_positions=SLOTS,
        session_items=rows * SLOTS, extra_rows=extra_rows(items + 1),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    # heads that start at zero would leave most gradients zero
    params = jax.tree.map(
        lambda x: np.asarray(x) + rng.normal(0, 0.02, x.shape).astype(np.float32),
        jax.device_get(sessionrec.init_params(spec, jax.random.key(0))),
    )
    batches = [make_batch(rng, items, rows) for _ in range(BATCHES)]
    proposal = ticketed(np.concatenate([[0.0], 1 / np.arange(1, items + 1)]))
    stepper = _torch_step.Stepper(
        model, OPTIM, alpha=LOSS.alpha, rate=RATE, params=params, log_q_V=proposal.log_q_V, compiled=is_compiled
    )
    return spec, Ours(spec, params, batches, proposal), Theirs(stepper, batches)


def assert_same_step(ours: Ours, theirs: Theirs, near: float) -> float:
    """Takes one step on each side and returns the largest relative difference of a loss or a gradient (in norm)."""
    draw = ours.drawn()
    losses = ours.losses(ours()), theirs.losses(theirs(draw))
    differences = {loss: abs(a - b) / abs(a) for loss, a, b in zip(("retrieval", "rank"), *losses, strict=True)}
    moments, others = ours.moments(), theirs.stepper.moments()
    assert moments.keys() == others.keys(), moments.keys() ^ others.keys()
    differences |= {name: np.linalg.norm(x - others[name]) / np.linalg.norm(x) for name, x in moments.items()}
    far = {name: difference for name, difference in differences.items() if not difference < near}
    assert not far, f"the two sides take different steps: {far}"
    return float(max(differences.values()))


class Turn:
    """Enough steps for a turn. It measures the CPU seconds of a step; `in_turns` measures the wall seconds."""

    def __init__(self, side: Ours | Theirs):
        self.side, self.cpu_seconds = side, []
        for _ in range(BATCHES):  # batches of another shape compile again
            side.losses(side())
        start = time.perf_counter()
        side.losses(side())
        self.steps = max(1, round(TURN_SECONDS / (time.perf_counter() - start)))

    def __call__(self) -> None:
        start = time.process_time()
        for _ in range(self.steps):
            losses = self.side()
        self.side.losses(losses)
        self.cpu_seconds.append((time.process_time() - start) / self.steps)


def case(body: str, items: int, args: argparse.Namespace) -> dict[str, Any]:
    spec, ours, theirs = contenders(
        body, items, rows=args.rows, compute=args.compute, attention=args.attention, is_compiled=args.compile
    )
    difference = assert_same_step(ours, theirs, NEAR[jax.default_backend(), args.compute])
    turns = [Turn(one) for one in (theirs, ours)]
    wall = in_turns(RUNS, *turns)
    wall = [[seconds / turn.steps for seconds in of_turns] for of_turns, turn in zip(wall, turns, strict=True)]
    cpu = [turn.cpu_seconds[1:] for turn in turns]  # without the warm-up
    sessions = args.rows * SLOTS
    counted = spec._replace(session_items=ITEMS)
    flops = count.flops_train(counted, LOSS, items=sessions * ITEMS, sessions=sessions, steps=1)
    peak = peak_flops_per_second(jax.devices()[:1], args.compute)

    def of_sides(value: Callable[[float], float], seconds: list[list[float]]) -> dict[str, float]:
        return {side: significant(value(median(s))) for side, s in zip(SIDES, seconds, strict=True)}

    return {
        "body": count.parameters(spec).body,
        "width": spec.model.width,
        "items": items,
        **ratio(*wall),
        "cpu": ratio(*cpu),
        "ms": of_sides(lambda s: 1e3 * s, wall),
        "items_per_second": of_sides(lambda s: sessions * ITEMS / s, wall),
        "cpu_ms": of_sides(lambda s: 1e3 * s, cpu),
        "flops_utilization": of_sides(lambda s: flops / s / peak, wall),
        "largest_difference": significant(difference),
        "load_average": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--bodies", nargs="+", default=["100k"], choices=BODIES, help="sizes of the body; the whole grid: all four"
    )
    parser.add_argument("--catalogues", nargs="+", default=CATALOGUES, type=int, help="items of the catalogue")
    parser.add_argument("--rows", default=32, type=int, help="of a batch, each of 64 sessions")
    parser.add_argument("--compute", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--attention", default="auto", choices=("auto", "reference", "fused"), help="of our side")
    parser.add_argument("--compile", action="store_true", help="torch.compile instead of eager")
    args = parser.parse_args()
    if jax.default_backend() == "gpu":
        torch.set_float32_matmul_precision("high")  # TF32, which is JAX's default there
        torch.set_default_device("cuda")
    cases = [case(body, items, args) for body in args.bodies for items in args.catalogues]
    report(
        "a training step against the same one in PyTorch, by body and catalogue",
        "seconds of a PyTorch step / of ours, lowest point of the grid",
        **min(
            ({key: of[key] for key in ("ratio", "ratio_lowest", "ratio_highest", "cpu")} for of in cases),
            key=lambda of: of["ratio"],
        ),
        cases=cases,
        rows=args.rows,
        compute=args.compute,
        attention=args.attention,
        runs=RUNS,
        torch_mode="compiled" if args.compile else "eager",
        glibc_tunables=os.environ.get("GLIBC_TUNABLES", ""),
        omp_wait_policy=os.environ["OMP_WAIT_POLICY"],
        device_kind=jax.devices()[0].device_kind,
        peak_tflops_per_second=significant(peak_flops_per_second(jax.devices()[:1], args.compute) / 1e12),
        torch_version=torch.__version__,
        jax_version=jax.__version__,
    )


if __name__ == "__main__":
    main()
