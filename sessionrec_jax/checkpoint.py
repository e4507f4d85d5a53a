"""Checkpoints by Orbax: {parameters, optimizer state, step} and {data iterator, counters}; save, restore, refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from sessionrec_jax.errors import InputError


class Checkpoints:
    """Asynchronous checkpoints under `folder`, the last two kept. Use as a context: leaving it waits for the writes."""

    def __init__(self, folder: Path):
        self._folder = folder
        options = ocp.CheckpointManagerOptions(max_to_keep=2, create=True, enable_async_checkpointing=True)
        # Named here, or else the arrays that another process saved cannot be looked at before they are restored.
        handlers = {"state": ocp.StandardCheckpointHandler(), "progress": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options, item_handlers=handlers)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    def save(self, step: int, state: Any, progress: dict[str, Any]) -> None:
        """`state`: arrays; `progress`: what JSON holds, the data iterator's state among it."""
        if self._manager.latest_step() == step:
            return
        self._manager.save(
            step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(progress))
        )

    def restore(self, like: Any) -> tuple[Any, dict[str, Any]] | None:
        """(state, progress) of the newest checkpoint, laid out as `like`; None where there is none.

        Raises InputError where its arrays have other shapes or types than `like`, by name (Orbax would cast silently).
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        saved = self._manager.item_metadata(step)["state"].tree
        _refuse_another_model(saved, like, self._folder)
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        restored = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), progress=ocp.args.JsonRestore())
        )
        return restored["state"], restored["progress"]


def _refuse_another_model(saved: Any, like: Any, folder: Path) -> None:
    wanted = {_name(path): (x.shape, str(x.dtype)) for path, x in jax.tree_util.tree_leaves_with_path(like)}
    found = {_name(path): (tuple(x.shape), str(x.dtype)) for path, x in jax.tree_util.tree_leaves_with_path(saved)}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise InputError(
                f"{folder}: the checkpoint has {name} = {found.get(name, 'nothing')}, the configured model wants "
                f"{wanted.get(name, 'nothing')}; it was written by another model. Use another --out."
            )


def _name(path: tuple[Any, ...]) -> str:
    keys = (getattr(key, "name", getattr(key, "key", getattr(key, "idx", key))) for key in path)
    return ".".join(str(key) for key in keys)
