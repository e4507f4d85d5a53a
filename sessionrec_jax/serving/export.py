"""Writes a trained run as a folder that one can take away: it needs neither this package nor the log.

    model.safetensors      weights, side information of items and the item vectors, by name
    recommend.stablehlo    the program of `recommend` for CPU, CUDA and TPU (jax.export): histories in, top K out
    items.parquet          row k is dense item k + 1: the publisher's id, its log popularity, its vector
    context_NAME.parquet   row k is the value of code k + 1 of a column of session context
    model.json, README.md  the model card, for programs and for people

    query_T_L.stablehlo    with approximate search: histories of at most T exposures and L sessions in, vectors out
    search.faiss           with approximate search: the index

A program is called with two dicts of arrays: the tensors of model.safetensors as they are, and the histories as
docs/serving.md describes them. The number of histories is free. Letters: B histories, T exposures, L sessions, M pairs,
N items, D width, R rows of the item table, K best items, Q queries.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib
import shutil
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from jax import Array
from jax import export as jax_export
from safetensors.numpy import save_file

from doors.files import check_folder
from doors.state import checksums
from sessionrec_jax.config.settings import Mesh
from sessionrec_jax.data.preparation.atomic_folder import atomic_folder
from sessionrec_jax.devices.gathered_rows import with_own_rows
from sessionrec_jax.devices.mesh import make_mesh
from sessionrec_jax.devices.placement import put_side
from sessionrec_jax.errors import InputError
from sessionrec_jax.evaluation.scoring import ItemTable, item_table
from sessionrec_jax.evaluation.trained_model import TrainedModel
from sessionrec_jax.model.spec import Params, Spec
from sessionrec_jax.runfolder.files import write_json
from sessionrec_jax.serving import model_card
from sessionrec_jax.serving import search as search_module
from sessionrec_jax.serving.batch import HistoryBatch
from sessionrec_jax.serving.histories import log_histories
from sessionrec_jax.serving.limits import Limits, newest
from sessionrec_jax.serving.program import answer, queries
from sessionrec_jax.serving.recommend import histories_at_once, limits_of, queries_and_best
from sessionrec_jax.serving.vocabulary import Vocabulary

MODEL, WEIGHTS, PROGRAM = "model.json", "model.safetensors", "recommend.stablehlo"
ITEMS, CARD, INDEX = "items.parquet", "README.md", "search.faiss"
VERSION = 1
"""The version of the folder's format."""
PLATFORMS = ("cpu", "cuda", "tpu")
Arrays = dict[str, Any]
_MEASURED = 1_024
"""Users of the log, the first ones, whose histories choose and measure an index."""


def check_target(to: Path) -> None:
    """Raises InputError if a model cannot be exported to the folder `to`, before anything is computed."""
    check_folder(to, "an exported model")
    if to.exists():
        raise InputError(f"{to} exists already; name another folder, or delete it first")


def export(
    run: TrainedModel, row: dict[str, Any] | None, to: Path, k: int = 100, search: search_module.Search = "exact"
) -> None:
    """Writes the run to the new folder `to`, which appears when it is complete. The program recommends `k` items, or
    all if there are fewer; `row` is the row of the run, None if it has not ended. With `search` approximate the folder
    also has an index, and its recall on histories of the log.

    Raises InputError if `to` exists already or the recall is below .99, ImportError if Faiss is not installed, and
    NotSaved on a full disk.
    """
    check_target(to)
    if search == "approximate":
        importlib.import_module("faiss")  # before anything is computed
    k, limits = min(k, run.catalogue.items), limits_of(run)
    spec, tensor_names, weights = _weights(run)
    index, found, programs = None, None, {}
    if search == "approximate":
        index, found = _index(run, weights)
        programs = {query_program(*most): _queries(spec, tensor_names, most, weights) for most in lengths(limits)}
    program = _program(spec, tensor_names, limits, k, weights)
    names = Vocabulary.of_log(run.log, run.config)
    with atomic_folder(to) as folder:
        save_file(weights, folder / WEIGHTS)
        for name, content in {PROGRAM: program, **programs}.items():
            (folder / name).write_bytes(content)
        if index is not None:
            index.write(folder / INDEX)
        vector_ND = weights["catalogue.vector"][1 : spec.ids]
        log_popularity_N = run.catalogue.log_popularity_V[1:]
        columns = {"item_id": run.log.item_ids(), "log_popularity": log_popularity_N, "vector": vector_ND}
        pl.DataFrame(columns).write_parquet(folder / ITEMS)
        for name, values in names.context.items():
            pl.DataFrame({"value": values}).write_parquet(folder / f"context_{name}.parquet")
        facts = model_card.facts(run, row) | {
            "version": VERSION,
            "exported": datetime.date.today().isoformat(),
            "k": k,
            "histories_at_once": histories_at_once(run),
            "limits": dataclasses.asdict(limits),
            "search": found,
            "context_read": dict(spec.context_values),
            "names": {
                "feedback_names": names.feedback_names,
                "context": list(names.context),
                "context_of_start": list(names.context_of_start),
                "reads_time": names.reads_time,
            },
        }
        (folder / CARD).write_text(model_card.markdown(facts))
        shutil.copymode(folder / ITEMS, folder / WEIGHTS)  # the library lets nobody else read its file
        write_json(folder / MODEL, facts | {"files": checksums(folder)})


def _weights(run: TrainedModel) -> tuple[Spec, Params, dict[str, np.ndarray]]:
    """Returns the spec of the exported model, the parameters with a name in the place of each array, and all tensors by
    name. Each item has its own row of the ID table: rare items that shared one get copies of it."""
    spec = run.spec.in_float32
    side = put_side(run.catalogue.side, spec.rows, run.mesh)
    table = item_table(spec, run.mesh, run.params, side)
    spec, params = with_own_rows(spec, run.mesh, run.params, side)
    names = jax.tree_util.tree_map_with_path(lambda path, _: ".".join(["params", *(key.key for key in path)]), params)
    tensors = dict(zip(jax.tree.leaves(names), jax.tree.leaves(params), strict=True))
    tensors |= {f"side.{name}": side[name] for name, _ in (*spec.side_values, *spec.vector_widths)}
    tensors |= {"catalogue.vector": table.e_RD, "catalogue.bias": table.bias_R}
    return spec, names, {name: np.asarray(jax.device_get(x)) for name, x in tensors.items()}


def lengths(limits: Limits) -> list[tuple[int, int]]:
    """Returns the numbers of exposures and sessions that programs of queries read at most, the shortest first. Most
    histories are far shorter than the longest that a model reads, and cost as little as their program."""
    return [(-(-limits.exposures // part), -(-limits.sessions // part)) for part in (8, 1)]


def query_program(exposures: int, sessions: int) -> str:
    """Returns the name of the file with the program of queries for histories of these lengths."""
    return f"query_{exposures}_{sessions}.stablehlo"


def _index(run: TrainedModel, weights: dict[str, np.ndarray]) -> tuple[search_module.Index, dict[str, Any]]:
    """Returns an index of the catalogue, and its lines of the model card."""
    histories = log_histories(run.log, min(_MEASURED, run.log.users))
    recent = newest(histories, limits_of(run))
    query_QD, exact_QK = queries_and_best(run, recent, min(search_module.DEPTH, run.catalogue.items))
    return search_module.measured(weights["catalogue.vector"], weights["catalogue.bias"], query_QD, exact_QK)


def _program(spec: Spec, names: Params, limits: Limits, k: int, weights: dict[str, np.ndarray]) -> bytes:
    """Returns the serialized program of answers."""
    table_of = itemgetter("catalogue.vector", "catalogue.bias")
    mesh = _mesh()

    def recommend(weights: Arrays, histories: Arrays) -> Arrays:
        batch = _batch(spec, histories)._replace(
            left_out_GM=(histories["left_out_history"][None], histories["left_out_item"][None])
        )
        table = ItemTable(*table_of(weights))
        item_GBK, score_GBK = answer(spec, mesh, k, *_model(spec, names, weights), table, batch)
        return {"items": item_GBK[0], "scores": score_GBK[0]}

    count, pairs = jax_export.symbolic_shape("b, m")
    shapes = _shapes(spec, count, limits.exposures, limits.sessions)
    shapes |= {name: jax.ShapeDtypeStruct((pairs,), np.int32) for name in ("left_out_history", "left_out_item")}
    return _serialized(recommend, weights, shapes)


def _queries(spec: Spec, names: Params, most: tuple[int, int], weights: dict[str, np.ndarray]) -> bytes:
    """Returns the serialized program of the query vectors, for histories of at most `most` exposures and sessions."""
    mesh = _mesh()

    def query(weights: Arrays, histories: Arrays) -> Array:
        return queries(spec, mesh, *_model(spec, names, weights), _batch(spec, histories))[0]

    [count] = jax_export.symbolic_shape("b")
    return _serialized(query, weights, _shapes(spec, count, *most))


def _mesh() -> jax.sharding.Mesh:
    """Returns one CPU: a program is traced for it, because a kernel of an accelerator is for one kind."""
    return make_mesh(Mesh(data=1), jax.devices("cpu")[:1])


def _serialized(function: Callable[..., Any], weights: dict[str, np.ndarray], histories: Arrays) -> bytes:
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in weights.items()}
    return bytes(jax_export.export(jax.jit(function), platforms=PLATFORMS)(shapes, histories).serialize())


def _model(spec: Spec, names: Params, weights: Arrays) -> tuple[Params, Arrays]:
    """Returns the parameters and the side information."""
    side = {name: weights[f"side.{name}"] for name, _ in (*spec.side_values, *spec.vector_widths)}
    return jax.tree.map(lambda name: weights[name], names), side


def _batch(spec: Spec, histories: Arrays) -> HistoryBatch:
    """Returns the histories as one shard, with no pairs to leave out."""
    given = {name: x[None] for name, x in histories.items()}
    nobody = jnp.zeros((1, 0), jnp.int32)
    return HistoryBatch(
        item_GBT=given["item"],
        feedback_GBT=given["feedback"],
        session_GBT=given["session"],
        sessions_GB=given["sessions"],
        seconds_GBL=given["seconds"],
        context_GBL={name: given[f"context.{name}"] for name, _ in spec.context_values},
        left_out_GM=(nobody, nobody),
    )


def _shapes(spec: Spec, histories: Any, exposures: int, sessions: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a program's histories, whose number is free."""
    shapes = dict.fromkeys(("item", "feedback", "session"), (histories, exposures))
    shapes |= {"sessions": (histories,), "seconds": (histories, sessions)}
    shapes |= {f"context.{name}": (histories, sessions) for name, _ in spec.context_values}
    return {name: jax.ShapeDtypeStruct(shape, np.int32) for name, shape in shapes.items()}
