"""Does the cost of a training step grow with the catalogue? Sparse against dense updates of the item tables.

    python benchmarks/table_update.py [--largest 10000000]

One step of a small Transformer (width 64, one layer, ID width 64) on the same batch shape, 16 rows of 32 sessions of 8
items, 512 negatives, for catalogues of 1e4, 1e5, 1e6 items: medians in turns. Above 1 sparse is faster. `growth` is the
step's time at the largest catalogue over that at the smallest. --largest adds one more size, sparse only.
"""

from __future__ import annotations

import argparse
import resource

import jax
import numpy as np
from _bench import in_turns, ratio, report, significant

from sessionrec_jax.config.settings import Loss, Mesh, Model, Optim
from sessionrec_jax.devices.mesh import make_mesh, over_batch, replicated
from sessionrec_jax.devices.placement import ShardedInputs, put_replicated
from sessionrec_jax.devices.sharding import shardings
from sessionrec_jax.loss.negatives import ticketed
from sessionrec_jax.model.spec import Spec, extra_rows
from sessionrec_jax.training.step import FixedArrays, Scalars, abstract_state, make_step

ROWS, SLOTS, ITEMS = 16, 32, 8
SIZES = (10_000, 100_000, 1_000_000)
RUNS = 9


class Stepper:
    """Takes one training step after another on a batch of its own."""

    def __init__(self, items: int, update: str):
        model = Model(width=64, layers=1, id_width=64)
        optimizer = Optim(table_update=update)
        spec = Spec(
            model=model, ids=items + 1, side_values=(), feedback_kinds=2, max_positions=SLOTS, session_items=ITEMS,
            extra_rows=extra_rows(items + 1),
        )  # fmt: skip
        mesh = make_mesh(Mesh(data=1))
        self.step = make_step(spec, Loss(), optimizer, mesh)
        shapes = abstract_state(spec, optimizer)
        made = jax.jit(lambda: jax.tree.map(lambda x: jax.numpy.full(x.shape, 0.01, x.dtype), shapes),
                       out_shardings=shardings(mesh, model, shapes))  # fmt: skip
        self.state = made()
        uniform = ticketed(np.append(0.0, np.ones(items)))
        scalars = Scalars(np.float32(1e-3), np.float32(0))
        proposal, scalars = put_replicated((uniform, scalars), mesh)
        self.inputs = jax.device_put(_batch(items), over_batch(mesh))
        self.fixed = FixedArrays({}, proposal)
        self.of_run = {"key": jax.device_put(jax.random.key(0), replicated(mesh)), "scalars": scalars}

    def __call__(self) -> None:
        self.state, sums = self.step(self.state, self.inputs, self.fixed, **self.of_run)
        jax.block_until_ready(sums)


def _batch(items: int) -> ShardedInputs:
    rng, slots = np.random.default_rng(0), ROWS * SLOTS
    item_GT = rng.integers(1, items + 1, (1, slots * ITEMS)).astype(np.int32)
    feedback_GT = (rng.random((1, slots * ITEMS)) < 0.3).astype(np.int8)
    session_GT = np.repeat(np.arange(slots), ITEMS)[None].astype(np.int32)
    place_GRL = np.broadcast_to(np.arange(SLOTS, dtype=np.int32), (1, ROWS, SLOTS))
    user_GRL = np.ones((1, ROWS, SLOTS), np.int32)
    target_GS = (place_GRL > 0).reshape(1, -1)
    return ShardedInputs(
        item_GT=item_GT, feedback_GT=feedback_GT, session_of_item_GT=session_GT, user_of_session_GRL=user_GRL,
        position_GRL=place_GRL, seconds_GRL=3600 * place_GRL, target_GS=target_GS,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", type=int)
    largest = parser.parse_args().largest
    cases, seconds = [], {}
    for items in SIZES:
        sparse, dense = Stepper(items, "sparse"), Stepper(items, "dense")
        seconds[items] = in_turns(RUNS, dense, sparse)
        cases.append({"items": items, **_milliseconds(*seconds[items]), **ratio(*seconds[items])})
    more = {}
    if largest:
        del sparse, dense
        alone = in_turns(RUNS, Stepper(largest, "sparse"))[0]
        gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        milliseconds = significant(1e3 * float(np.median(alone)))
        more = {"largest_items": largest, "largest_sparse_ms": milliseconds, "peak_rss_gib": significant(gigabytes)}
    growth = {
        name: significant(float(np.median(seconds[SIZES[-1]][i]) / np.median(seconds[SIZES[0]][i])))
        for i, name in enumerate(("dense", "sparse"))
    }
    report(
        "a training step with dense against sparse updates of the item tables",
        f"seconds of a dense step / of a sparse step, {SIZES[-1]:,} items",
        **ratio(*seconds[SIZES[-1]]),
        growth=growth,
        cases=cases,
        **more,
        runs=RUNS,
    )


def _milliseconds(dense: list[float], sparse: list[float]) -> dict[str, float]:
    return {
        "dense_ms": significant(1e3 * float(np.median(dense))),
        "sparse_ms": significant(1e3 * float(np.median(sparse))),
    }


if __name__ == "__main__":
    main()
