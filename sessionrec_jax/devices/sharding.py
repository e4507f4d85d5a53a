"""The sharding of each parameter, and of its optimizer state, over the mesh.

The rows of the item tables are spread over all devices; every other parameter is sharded by the axes that its module
states (model/facts.py).
"""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec
from jax.tree_util import DictKey

from sessionrec_jax.config.settings import Model
from sessionrec_jax.devices.mesh import by_row
from sessionrec_jax.model.parameters import parameter

TABLES = ("item_table", "item_bias")
"""Parameters with one row for each item."""


def shardings(mesh: jax.sharding.Mesh, model: Model, tree: Any) -> Any:
    """Returns the sharding of every leaf of the model's parameters or of their optimizer state. Leaves without a name
    are replicated, and so is a dimension that its mesh axis does not divide.

    Raises ValueError for a parameter that does not match exactly one row of its module's table.
    """

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        free = len(leaf.shape)
        if is_table(path):  # optimizer state of a table may have one number for each row
            return by_row(mesh, leaf.shape[0])
        axes = parameter(model, name).axes if (name := _name(path)) else ()
        axes = (*(None,) * (free - len(axes)), *axes)
        fitting = [a if a and n % mesh.shape[a] == 0 else None for a, n in zip(axes, leaf.shape, strict=True)]
        return NamedSharding(mesh, PartitionSpec(*fitting))

    return jax.tree_util.tree_map_with_path(sharding, tree)


def _name(path: tuple[Any, ...]) -> str:
    """Returns the path of a parameter: the dict keys at the end of a path into parameters or optimizer state."""
    outer = max((n + 1 for n, key in enumerate(path) if not isinstance(key, DictKey)), default=0)
    return "/".join(key.key for key in path[outer:])


def is_table(path: tuple[Any, ...]) -> bool:
    """Returns True for a leaf of parameters or optimizer state with one row for each item, by its last name."""
    return bool(path) and isinstance(path[-1], DictKey) and path[-1].key in TABLES


def is_matrix(model: Model, path: tuple[Any, ...]) -> bool:
    """Returns True for a parameter of the body that a matrix product reads, which mesh axes may divide."""
    return bool(parameter(model, _name(path)).axes)


def row_specs(mesh: jax.sharding.Mesh, tree: Any) -> Any:
    """Returns the specs of parameters for `jax.shard_map`: a device's own rows of the tables, all of the others."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: by_row(mesh, x.shape[0]).spec if is_table(path) else PartitionSpec(), tree
    )
