"""A trained run read back from its folder: `restore(run_dir) -> TrainedModel`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp

from doors.address import address_of
from sessionrec_jax.config.settings import Config, Mesh
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.batches import train_catalogue
from sessionrec_jax.data.resolve import resolve
from sessionrec_jax.data.store import MANIFEST, Prepared, open_log
from sessionrec_jax.devices.mesh import make_mesh
from sessionrec_jax.devices.sharding import shardings
from sessionrec_jax.errors import InputError
from sessionrec_jax.evaluation.trained_model import TrainedModel
from sessionrec_jax.model.spec_of_log import spec_of
from sessionrec_jax.runfolder.files import read_config
from sessionrec_jax.training.checkpoint import load, load_best, newest_whole
from sessionrec_jax.training.step import abstract_state


def restore(run_dir: Path, data: Prepared | str | Path | None = None, asked: Mesh | None = None) -> TrainedModel:
    """Reads the newest whole checkpoint of `run_dir`, or its best one if train.evaluated is best, and opens the log.

    `data` is the log, if it is not where training read it. `asked` are the devices, which may be fewer or more than in
    training; by default as many as the run had, or as there are. Raises InputError if the folder has no run, no whole
    checkpoint or parameters that are not numbers, if the log is missing or is not the one of training, and if there
    are too few devices.
    """
    config = read_config(run_dir)
    prepared = _log_of(config, run_dir, data)
    config = _on_devices_here(config) if asked is None else dataclasses.replace(config, mesh=asked)
    config = resolve(config, prepared)
    mesh = make_mesh(config.mesh)
    catalogue = train_catalogue(config, prepared)
    spec = spec_of(config, prepared, catalogue)
    shapes = abstract_state(spec, config.optim)
    places = shardings(mesh, spec.model, shapes)
    like = jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), shapes, places)
    folder = run_dir / "checkpoints"
    newest, _ = newest_whole(folder)
    if newest is None:
        raise InputError(
            f"{run_dir} has no checkpoint yet; `sessionrec train {prepared.path} --out {run_dir}` with the settings of "
            "its config.json trains it"
        )
    state, progress = load(folder, newest, like)
    if config.train.evaluated == "best":
        _, state = load_best(folder, progress["best"], like)
    if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(state.params)):
        raise InputError(
            f"{run_dir}: the parameters of the checkpoint at step {int(state.step)} are not all numbers, because the "
            "run diverged. Train again into another folder with a lower --optim.learning-rate-peak"
        )
    return TrainedModel(config, prepared, catalogue, spec, mesh=mesh, params=state.params, step=int(state.step))


def _log_of(config: Config, run_dir: Path, data: Prepared | str | Path | None) -> Prepared:
    if isinstance(data, Prepared):
        return data
    if data is None and address_of(config.data.path) is None and not (Path(config.data.path) / MANIFEST).is_file():
        raise InputError(
            f"{run_dir} was trained on {config.data.path or 'a log without a path'}, where there is no prepared log "
            "now; name its folder with --data"
        )
    return open_log(config.data.path if data is None else data)


def _on_devices_here(config: Config) -> Config:
    """Returns `config` with the run's mesh, or, if there are too few devices, with all those of the `data` axis over
    which its rows spread evenly."""
    asked, here = config.mesh, jax.device_count()
    others = asked.fsdp * asked.model
    if others > 1 and (asked.data or 1) * others <= here:
        return config
    most = min(asked.data or here, here)
    devices = next(count for count in range(most, 0, -1) if config.data.rows % count == 0)
    return replace(config, {"mesh.data": devices, "mesh.fsdp": 1, "mesh.model": 1})
