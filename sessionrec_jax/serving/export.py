"""Writes a trained run as a folder that one can take away: it needs neither this package nor the log.

    model.safetensors      weights, side information of items and the item vectors, by name
    recommend.stablehlo    the program of `recommend` for CPU, CUDA and TPU (jax.export): histories in, top K out
    items.parquet          row k is dense item k + 1: the publisher's id, its log popularity, its vector
    context_NAME.parquet   row k is the value of code k + 1 of a column of session context
    model.json, README.md  the model card, for programs and for people

The program is called with two dicts of arrays: the tensors of model.safetensors as they are, and the histories as
docs/serving.md describes them. The number of histories is free. Letters: B histories, T exposures, L sessions, M pairs,
N items, D width.
"""

from __future__ import annotations

import dataclasses
import datetime
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import polars as pl
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
from sessionrec_jax.serving.batch import HistoryBatch
from sessionrec_jax.serving.limits import Limits
from sessionrec_jax.serving.program import answer
from sessionrec_jax.serving.recommend import histories_at_once, limits_of
from sessionrec_jax.serving.vocabulary import Vocabulary

MODEL, WEIGHTS, PROGRAM = "model.json", "model.safetensors", "recommend.stablehlo"
ITEMS, CARD = "items.parquet", "README.md"
VERSION = 1
"""The version of the folder's format."""
PLATFORMS = ("cpu", "cuda", "tpu")
Arrays = dict[str, Any]


def check_target(to: Path) -> None:
    """Raises InputError if a model cannot be exported to the folder `to`, before anything is computed."""
    check_folder(to, "an exported model")
    if to.exists():
        raise InputError(f"{to} exists already; name another folder, or delete it first")


def export(run: TrainedModel, row: dict[str, Any] | None, to: Path, k: int = 100) -> None:
    """Writes the run to the new folder `to`, which appears when it is complete. The program recommends `k` items, or
    all if there are fewer; `row` is the row of the run, None if it has not ended.

    Raises InputError if `to` exists already, and NotSaved on a full disk.
    """
    check_target(to)
    k = min(k, run.catalogue.items)
    spec, tensor_names, weights = _weights(run)
    program = _program(spec, tensor_names, limits_of(run), k, weights)
    names = Vocabulary.of_log(run.log, run.config)
    with atomic_folder(to) as folder:
        save_file(weights, folder / WEIGHTS)
        (folder / PROGRAM).write_bytes(program)
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
            "limits": dataclasses.asdict(limits_of(run)),
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


def _program(spec: Spec, names: Params, limits: Limits, k: int, weights: dict[str, np.ndarray]) -> bytes:
    """Returns the serialized program. It is traced for a CPU, because a kernel of an accelerator is for one kind."""
    mesh = make_mesh(Mesh(data=1), jax.devices("cpu")[:1])
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in weights.items()}
    traced = jax_export.export(jax.jit(_recommend(spec, mesh, k, names)), platforms=PLATFORMS)
    return bytes(traced(shapes, _shapes(spec, limits)).serialize())


def _recommend(spec: Spec, mesh: jax.sharding.Mesh, k: int, names: Params) -> Callable[[Arrays, Arrays], Arrays]:
    def recommend(weights: Arrays, histories: Arrays) -> Arrays:
        given = {name: x[None] for name, x in histories.items()}
        batch = HistoryBatch(
            item_GBT=given["item"],
            feedback_GBT=given["feedback"],
            session_GBT=given["session"],
            sessions_GB=given["sessions"],
            seconds_GBL=given["seconds"],
            context_GBL={name: given[f"context.{name}"] for name, _ in spec.context_values},
            left_out_GM=(given["left_out_history"], given["left_out_item"]),
        )
        side = {name: weights[f"side.{name}"] for name, _ in (*spec.side_values, *spec.vector_widths)}
        table = ItemTable(weights["catalogue.vector"], weights["catalogue.bias"])
        params = jax.tree.map(lambda name: weights[name], names)
        item_GBK, score_GBK = answer(spec, mesh, k, params, side, table, batch)
        return {"items": item_GBK[0], "scores": score_GBK[0]}

    return recommend


def _shapes(spec: Spec, limits: Limits) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of the program's histories. The numbers of histories and of pairs are free."""
    histories, pairs = jax_export.symbolic_shape("b, m")
    by_exposure, by_session = (histories, limits.exposures), (histories, limits.sessions)
    shapes = dict.fromkeys(("item", "feedback", "session"), by_exposure)
    shapes |= {"sessions": (histories,), "seconds": by_session}
    shapes |= {f"context.{name}": by_session for name, _ in spec.context_values}
    shapes |= {"left_out_history": (pairs,), "left_out_item": (pairs,)}
    return {name: jax.ShapeDtypeStruct(shape, np.int32) for name, shape in shapes.items()}
