"""Training steps on sessions drawn on the device, against the least that such a step can do.

    python benchmarks/fresh.py [--widths 8 32] [--rows 2048]

Both contenders train the same Transformer on the same process with AdamW. `bare` is written here by hand: float32
cumulative popularity, one look-up of the click probability, 100 steps of `lax.scan` in one program, and no checkpoint,
log, schedule by step, sharding or exact draws. `ratio`: seconds a step of `sessionrec train --data.fresh` over those of
`bare`; 1 is as fast as the bare loop. The first calls, which compile, are not counted.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _bench import in_turns, ratio, report, significant

from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.batches import train_catalogue
from sessionrec_jax.data.preparation.prepare import Settings, prepare
from sessionrec_jax.data.resolve import resolve
from sessionrec_jax.data.sources import synthetic
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.data.synthetic.known import dense_ids, known_truth
from sessionrec_jax.data.synthetic.process import ZipfIntent
from sessionrec_jax.model import sessionrec
from sessionrec_jax.model.anchor_inputs import anchor_inputs
from sessionrec_jax.model.spec import Spec
from sessionrec_jax.model.spec_of_log import spec_of
from sessionrec_jax.training.loop import train

PROCESS = ZipfIntent(users=400, click_low=0.02, click_high=0.9, keep_interest=0.95, sessions_mean=4.0, sessions_max=12)
STEPS = 1_000
RUNS = 5
STEPS_OF_SCAN = 100
RATE = 2e-2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", nargs="+", default=[8, 32], type=int)
    parser.add_argument("--rows", default=2_048, type=int, help="sessions of a step")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(validation_users=100, test_users=100)
        prepared = prepare(synthetic.read(PROCESS), Path(folder) / "log", settings)
        cases = [case(prepared, width, args.rows, Path(folder)) for width in args.widths]
    worst = max(cases, key=lambda of: of["ratio"])
    report(
        "a training step on sessions drawn on the device, against a bare loop",
        "seconds a step of `train --data.fresh expected` / of a bare scan, highest of the widths",
        **{name: worst[name] for name in ("ratio", "ratio_lowest", "ratio_highest")},
        cases=cases,
        rows=args.rows,
        steps=STEPS,
        runs=RUNS,
        device_kind=jax.devices()[0].device_kind,
        jax_version=jax.__version__,
    )


def case(prepared: Prepared, width: int, rows: int, folder: Path) -> dict[str, Any]:
    changes = {
        "data.fresh": "expected", "data.fresh_sessions": STEPS * rows, "data.rows": rows, "data.sessions_per_row": 2,
        "data.eval_candidates": "shown", "model.width": width, "model.layers": 1, "model.heads": 1,
        "model.id_width": 0, "model.side_width": max(4, width // 2), "model.scored_by": ("category",),
        "model.clicked_in_input": False, "model.ignored_in_input": False, "model.remat": False,
        "loss.retrieval": "none", "optim.learning_rate_peak": RATE, "mesh.data": 1,
    }  # fmt: skip
    config = resolve(replace(Config(), changes), prepared)
    loops, numbers = [], iter(range(RUNS + 1))

    def product() -> None:
        seen = train(config, prepared, folder / f"{width}-{next(numbers)}", quiet=True).history.counters
        loops.append(seen.wall_seconds - seen.compile_seconds)

    bare = bare_loop(config, prepared)
    _, bare_seconds = in_turns(RUNS, product, bare)
    return {
        "width": width,
        **ratio(loops[1:], bare_seconds),
        "sessions_per_second": significant(STEPS * rows / median(loops[1:])),
        "sessions_per_second_bare": significant(STEPS * rows / median(bare_seconds)),
    }


def bare_loop(config: Config, prepared: Prepared) -> Any:
    """Returns a function that trains for STEPS steps from the start."""
    truth, catalogue = known_truth(prepared), train_catalogue(config, prepared)
    spec = spec_of(config, prepared, catalogue)
    start = sessionrec.init(spec, jax.random.key(0), catalogue)
    start["heads"]["item_bias"] = jnp.zeros(())  # it is not trained here, so it is kept out of the optimizer
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(RATE, b2=config.optim.beta2))
    item_K = jnp.asarray(dense_ids(prepared, truth.process.item_count), jnp.int32)
    cdf_K = jnp.asarray(np.cumsum(truth.popularity_K), jnp.float32)
    q_KC, mass_C = jnp.asarray(truth.click_probability_ZC, jnp.float32), jnp.asarray(truth.category_mass_C, jnp.float32)
    shown_C = item_K[np.array([np.argmax(truth.category_K == c) for c in range(truth.process.categories)])]
    side = jax.tree.map(jnp.asarray, catalogue.side)
    rows = config.data.rows

    def loss(params: Any, key: jax.Array) -> jax.Array:
        uniform_B = (jax.random.uniform(key, (rows,)) + jnp.arange(rows)) / rows
        k_B = jnp.minimum(jnp.searchsorted(cdf_K, uniform_B), len(cdf_K) - 1)
        logit_BC = _logits(spec, params, item_K[k_B], shown_C, side)
        return jnp.mean((jax.nn.softplus(logit_BC) - q_KC[k_B] * logit_BC) @ mass_C)

    @jax.jit
    def many(state: Any, first: jax.Array) -> Any:
        def one(state: Any, step: jax.Array) -> Any:
            params, moments = state
            gradient = jax.grad(loss)(params, jax.random.fold_in(jax.random.key(1), step))
            updates, moments = optimizer.update(gradient, moments, params)
            return (optax.apply_updates(params, updates), moments), None

        return jax.lax.scan(one, state, first + jnp.arange(STEPS_OF_SCAN))[0]

    def train_bare() -> None:
        state = start, optimizer.init(start)
        for first in range(0, STEPS, STEPS_OF_SCAN):
            state = many(state, jnp.int32(first))
        jax.block_until_ready(state)

    return train_bare


def _logits(spec: Spec, params: Any, anchor_B: jax.Array, shown_C: jax.Array, side: Any) -> jax.Array:
    params = params | {"heads": params["heads"] | {"item_bias": jnp.zeros(spec.rows)}}
    query_BD = sessionrec.apply(spec, params, anchor_inputs(anchor_B[:, None]), side)[1].rank_SD
    return query_BD @ sessionrec.embed(spec, params, shown_C, side).T + params["heads"]["rank_bias"]


if __name__ == "__main__":
    main()
