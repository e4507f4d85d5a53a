"""Recommends the top K items of the whole catalogue after a user's last session, in the publisher's ids.

    model = restore(Path("RUN"))
    names = Vocabulary.of_log(model.log, model.config)
    for answer in recommend(model, read_histories(Path("users.jsonl"), names), k=50):
        print(json.dumps(answer))

Letters: W windows (what the model reads of a history), B histories of a shard, G shards of a batch, K recommendations,
D width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from sessionrec_jax.data.store import FlatLog
from sessionrec_jax.data.windows import Windows
from sessionrec_jax.devices.mesh import batch_shards, over_batch
from sessionrec_jax.devices.placement import put_side
from sessionrec_jax.evaluation.scoring import BLOCK, ItemTable, item_table, stack_pairs
from sessionrec_jax.evaluation.trained_model import TrainedModel
from sessionrec_jax.model.embedding import Side
from sessionrec_jax.model.spec import Params, Spec
from sessionrec_jax.registry import SESSION_ENCODERS
from sessionrec_jax.runfolder.progress import Bar
from sessionrec_jax.serving.answers import Answering, Best, Seen, found
from sessionrec_jax.serving.batch import pack, seen_pairs
from sessionrec_jax.serving.histories import Histories
from sessionrec_jax.serving.limits import Limits
from sessionrec_jax.serving.program import answer, queries


def recommend(
    run: TrainedModel, histories: Histories, k: int, seen: Seen = "kept", *, quiet: bool = False
) -> Iterator[dict[str, Any]]:
    """Yields the `k` likeliest next clicks of each user, best first, among all items of the catalogue:

        {"user": ..., "items": [published ids], "scores": [...], "seen_items": "kept", "unknown_items": n,
         "sessions_used": n}

    A score is the item's log probability, in nats, in the softmax over the whole catalogue, even where `seen` leaves
    items out. Equal scores are in the order of the catalogue. Models trained with `loss.other_clicks="masked"` rank
    well, but their scores are not calibrated probabilities. `seen` masked leaves out the items that the history shows
    as clicked or ignored in any session, but not context; an answer may then be shorter than `k`.

    The model reads the newest `data.slots` - 1 sessions, or fewer if their exposures fill a row. A model of an
    item-level paradigm reads the same number of items; "items_used" then replaces "sessions_used". For a model that
    reads session context, "unknown_context" counts the unknown values. A history without a known item gets the most
    popular items and "fallback": "popularity".

    Raises InputError for a `k` above the number of items, and for a session that the model cannot read.
    """
    return answering(run).answers(histories, k, seen, functools.partial(_rank, run, k, quiet))


def answering(run: TrainedModel) -> Answering:
    """Returns what turns histories into answers of the run, except the ranking."""
    published = [None, *run.log.item_ids().to_list()]
    return Answering(limits_of(run), published, run.catalogue.log_popularity_V, dict(run.spec.context_values))


def limits_of(run: TrainedModel) -> Limits:
    """Returns how much of a history the model reads."""
    config = run.config
    sessions, is_item_level = config.data.slots - 1, config.paradigm != "nspp"
    is_bounded = SESSION_ENCODERS.find(config.model.session_encoder).is_bounded
    return Limits(
        paradigm=config.paradigm,
        sessions=sessions,
        exposures=sessions if is_item_level else config.data.items_per_row,
        session_encoder=config.model.session_encoder,
        session_exposures=run.spec.session_items if is_bounded else 0,
    )


def histories_at_once(run: TrainedModel) -> int:
    """Returns the histories that a device answers at once: at most as many slots as a batch of training has."""
    return max(1, min(BLOCK, run.shape.sessions // (run.config.data.slots - 1)))


def queries_and_best(
    run: TrainedModel, asked: Windows, k: int
) -> tuple[Float[np.ndarray, "W D"], Int[np.ndarray, "W K"]]:
    """Returns the query vector of each window, and the dense ids of its exact best `k` items."""

    def both(spec: Spec, mesh: jax.sharding.Mesh, params: Params, side: Side, table: ItemTable, batch: Any) -> Any:
        return queries(spec, mesh, params, side, batch), answer(spec, mesh, k, params, side, table, batch)[0]

    query_BD, item_BK = zip(*_over_batches(run, asked, None, True, both), strict=True)
    return np.concatenate(query_BD), np.concatenate(item_BK)


def _rank(run: TrainedModel, k: int, quiet: bool, asked: Windows, seen: FlatLog | None) -> Iterator[Best]:
    def best(spec: Spec, mesh: jax.sharding.Mesh, *given: Any) -> Any:
        return answer(spec, mesh, k, *given)

    for item_BK, score_BK in _over_batches(run, asked, seen, quiet, best):
        yield from found(item_BK, score_BK)


def _over_batches(
    run: TrainedModel, asked: Windows, seen: FlatLog | None, quiet: bool, program: Callable[..., Any]
) -> Iterator[Any]:
    """Yields what `program(spec, mesh, params, side, table, batch)` returns, for the windows of each batch."""
    spec, shards, places = run.spec.in_float32, batch_shards(run.mesh), histories_at_once(run)
    side = put_side(run.catalogue.side, spec.rows, run.mesh)
    table = item_table(spec, run.mesh, run.params, side)
    pack_shard = functools.partial(pack, asked, limits=limits_of(run), context=dict(spec.context_values), places=places)
    with Bar("histories", -(-len(asked) // (shards * places)), quiet=quiet) as bar:
        for first in range(0, len(asked), shards * places):
            window_B = np.arange(first, min(first + shards * places, len(asked)))
            window_GB = np.array_split(window_B, range(places, shards * places, places))
            batch = jax.tree.map(lambda *x_G: np.stack(x_G), *map(pack_shard, window_GB))
            if seen is not None:
                pairs_G = [seen_pairs(seen, asked.user_W[window_B], spec.ids) for window_B in window_GB]
                batch = batch._replace(left_out_GM=stack_pairs(pairs_G, places))
            on_device = jax.device_put(batch, over_batch(run.mesh))
            arrays = jax.device_get(program(spec, run.mesh, run.params, side, table, on_device))
            yield tuple(x_GBX.reshape(-1, x_GBX.shape[-1])[: len(window_B)] for x_GBX in arrays)
            bar.advance("")
