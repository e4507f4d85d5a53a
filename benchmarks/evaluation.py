"""The cost of an evaluation that scores each held-out session once, against once for each of its clicked items.

    python benchmarks/evaluation.py
    python benchmarks/evaluation.py --items 1048576 --sessions 6000 --runs 1        # a quarter of an hour on two cores

Both sides are `measure` on the same untrained model and held-out sessions of the synthetic process, and end with the
same metrics; they differ in the scoring of the catalogue. `before` is a copy of what this project did until November
2026: every clicked item is a query of its own, the clicks of a batch are padded to a power of two, and scores are
reduced in chunks of 8,192 items. `ranking_metrics_equal` says whether all metrics of ranks are equal to the last bit.
`ns_a_click_and_item` divides CPU seconds by clicks x items, for comparison with older numbers.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from _bench import in_turns, ratio, report, significant

from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.batches import train_catalogue
from sessionrec_jax.data.codes import TEST
from sessionrec_jax.data.preparation.prepare import Settings, prepare
from sessionrec_jax.data.resolve import resolve
from sessionrec_jax.data.sources import synthetic
from sessionrec_jax.devices.mesh import make_mesh
from sessionrec_jax.devices.placement import put_replicated
from sessionrec_jax.evaluation import measure
from sessionrec_jax.evaluation.catalogue_ranks import CatalogueQueue, ClickedSessions
from sessionrec_jax.evaluation.metrics import Metrics
from sessionrec_jax.evaluation.scoring import BLOCK, ItemTable, padded_width
from sessionrec_jax.evaluation.trained_model import TrainedModel
from sessionrec_jax.model.spec_of_log import spec_of
from sessionrec_jax.training.step import initial_state

SESSIONS_A_USER = 4  # the last three are held-out targets
BASES = {10_000: (10, 4), 100_000: (10, 5), 1_048_576: (32, 4)}
CHUNK = 8192


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", nargs="+", default=[10_000, 100_000], type=int, choices=BASES)
    parser.add_argument("--sessions", nargs="+", default=[2_000], type=int, help="held-out sessions, about")
    parser.add_argument("--width", default=16, type=int)
    parser.add_argument("--runs", default=3, type=int)
    args = parser.parse_args()
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        for items in args.items:
            for sessions in args.sessions:
                model = _model(Path(folder) / f"{items}-{sessions}", items, sessions, args.width)
                cases.append(_case(model, items, args.runs))
    report(
        "each held-out session scored once against the catalogue, and once for each clicked item",
        "CPU seconds before / now, lowest of the cases",
        ratio=min(of["cpu"]["ratio"] for of in cases),
        cases=cases,
        width=args.width,
        runs=args.runs,
        device_kind=jax.devices()[0].device_kind,
        jax_version=jax.__version__,
    )


def _model(folder: Path, items: int, sessions: int, width: int) -> TrainedModel:
    """Returns a model with random heads, so that ranks are spread."""
    base, depth = BASES[items]
    users = sessions // (SESSIONS_A_USER - 1)
    of_log = {"base": base, "depth": depth, "sessions_max": SESSIONS_A_USER, "sessions_mean": SESSIONS_A_USER - 0.01}
    clicks = {"click_low": 0.02, "click_high": 0.9, "seed": 1}
    process = synthetic.Options(users=400 + users, **of_log, **clicks)
    prepared = prepare(synthetic.read(process), folder, Settings(validation_users=100, test_users=users))
    config = resolve(replace(Config(), {"mesh.data": 1, "model.width": width, "model.heads": 2}), prepared)
    catalogue, mesh = train_catalogue(config, prepared), make_mesh(config.mesh)
    spec, rng = spec_of(config, prepared, catalogue), np.random.default_rng(0)
    params = jax.device_get(initial_state(config, spec, catalogue, mesh).params)
    for name in ("retrieval", "rank"):
        params["heads"][name] = rng.normal(size=params["heads"][name].shape).astype(np.float32) / 3
    return TrainedModel(config, prepared, catalogue, spec, mesh, put_replicated(params, mesh), 0)


def _case(model: TrainedModel, items: int, runs: int) -> dict[str, Any]:
    cpu: dict[str, list[float]] = {"before": [], "now": []}
    found: dict[str, Metrics] = {}

    def timed(name: str, queue: type[CatalogueQueue]) -> Callable[[], None]:
        def call() -> None:
            start = time.process_time()
            with mock.patch.object(measure, "CatalogueQueue", queue):
                found[name] = measure.measure(model, TEST)
            cpu[name].append(time.process_time() - start)

        return call

    wall = in_turns(runs, timed("before", EachClick), timed("now", CatalogueQueue))
    before, now = (found[name].result() for name in cpu)
    ranking = [name for name in now if name.startswith(("recall", "ndcg", "hit", "mrr"))]
    clicks = found["now"].terms("loss_nats_per_item")
    cpu = {name: seconds[1:] for name, seconds in cpu.items()}  # without the warm-up
    return {
        "items": items,
        "sessions": found["now"].terms("mrr"),
        "clicks": clicks,
        "cpu": ratio(cpu["before"], cpu["now"]),
        "wall": ratio(*wall),
        "cpu_seconds": {name: significant(median(seconds)) for name, seconds in cpu.items()},
        "ns_a_click_and_item": {
            name: significant(1e9 * median(seconds) / clicks / items) for name, seconds in cpu.items()
        },
        "ranking_metrics_equal": all(before[name] == now[name] for name in ranking),
        "nats_difference": abs(before["loss_nats_per_item"] - now["loss_nats_per_item"]),
    }


class EachClick(CatalogueQueue):
    """The clicks of a batch, each a query of its own; on one device."""

    def add(self, sessions_G: list[ClickedSessions]) -> None:
        (sessions,) = sessions_G
        clicks = len(sessions.row_N)
        fill = (0, padded_width(clicks, BLOCK) - clicks)
        query_QD = np.pad(sessions.query_BD[sessions.row_N], (fill, (0, 0)))
        item_Q, least_Q = np.pad(sessions.item_N, fill), np.pad(sessions.least_N, fill)
        found = _log_sum_and_rank(self.table, *jax.device_put((query_QD, item_Q, least_Q)))
        log_sum_N, rank_N = (np.asarray(x_Q)[:clicks] for x_Q in found)
        self.record(sessions.scored(log_sum_N, rank_N))


@jax.jit
def _log_sum_and_rank(
    table: ItemTable, query_QD: jax.Array, item_Q: jax.Array, least_Q: jax.Array
) -> tuple[jax.Array, jax.Array]:
    rows = len(table.bias_R)
    chunks = -(-rows // CHUNK)
    size = -(-rows // chunks)

    def block(part: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        query_BD, item_B, least_B = part

        def chunk(number: jax.Array) -> tuple[jax.Array, jax.Array]:
            start = jnp.minimum(number * size, rows - size)
            e_ND, bias_N = (jax.lax.dynamic_slice_in_dim(x_RX, start, size) for x_RX in table)
            place_N = start + jnp.arange(size)
            score_BN = jnp.einsum("BD,ND->BN", query_BD, e_ND, precision="highest") + bias_N
            score_BN = jnp.where((place_N >= number * size) & (bias_N > -jnp.inf), score_BN, -jnp.inf)
            is_other_BN = (place_N != item_B[:, None]) & (score_BN != -jnp.inf)
            is_above_BN = is_other_BN & ~(score_BN < least_B[:, None])
            return jax.nn.logsumexp(score_BN, axis=1), is_above_BN.sum(axis=1)

        log_sum_CB, above_CB = jax.lax.map(chunk, jnp.arange(chunks))
        return jax.nn.logsumexp(log_sum_CB, axis=0), above_CB.sum(axis=0)

    blocks = (query_QD.reshape(-1, BLOCK, query_QD.shape[-1]), item_Q.reshape(-1, BLOCK), least_Q.reshape(-1, BLOCK))
    return jax.tree.map(functools.partial(jnp.reshape, shape=-1), jax.lax.map(block, blocks))


if __name__ == "__main__":
    main()
