"""The table that says how each parameter, and its optimizer state, is spread over the mesh."""

from __future__ import annotations

import re
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from sessionrec_jax.config.settings import Model
from sessionrec_jax.devices.mesh import TABLE_AXIS

TABLES = ("item_table", "item_bias")
"""Parameters with a row an item."""
RULES = (
    ("|".join(TABLES), (TABLE_AXIS,)),
    (r"qkv|uvqk|mlp_in|mlp_gate|gates_in|gates_state", ("fsdp", "model")),
    (r"attention_out|out|mlp_out", ("model", "fsdp")),
    (r"project|linear|retrieval|rank", ("fsdp", None)),
    (r"(side|context)_.*|feedback|position|attention|norm.*|(mlp|gates|place|time|rank)_bias|bias|log_temperature", ()),
)
"""(last name of a parameter, axes of its rows for the tables, of its last two dimensions for matrices). Each parameter
has exactly one rule; its optimizer state lies as it does. An axis that does not divide a dimension leaves it whole."""


def shardings(mesh: jax.sharding.Mesh, model: Model, tree: Any) -> Any:
    """Where every leaf of parameters or of their optimizer state lies, by RULES; leaves without a name are replicated.

    Raises ValueError for a name that has no rule, or more than one.
    """

    def of(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        axes = _axes(path[-1].key) if path and isinstance(path[-1], jax.tree_util.DictKey) else ()
        free = len(leaf.shape) - len(axes)
        rest = (None,) * max(free, 0)
        # of a table the rows lead, and what stands behind them, or does not (a sum a row), is whole
        places = [*axes, *rest] if axes == (TABLE_AXIS,) else [*rest, *axes]
        fitting = [a if a and n % mesh.shape[a] == 0 else None for a, n in zip(places, leaf.shape, strict=True)]
        return NamedSharding(mesh, PartitionSpec(*fitting))

    return jax.tree_util.tree_map_with_path(of, tree)


def is_table(path: tuple[Any, ...]) -> bool:
    """Whether a leaf of parameters or of their optimizer state has a row an item, by the last name on its path."""
    return bool(path) and isinstance(path[-1], jax.tree_util.DictKey) and path[-1].key in TABLES


def _axes(name: str) -> tuple[str | None, ...]:
    found = [axes for pattern, axes in RULES if re.fullmatch(pattern, name)]
    if len(found) != 1:
        raise ValueError(f"the parameter {name!r} has {len(found)} rules in partition.RULES; wanted one")
    return found[0]


def row_specs(tree: Any) -> Any:
    """Of parameters for `jax.shard_map`: a device's own rows of the tables, and all of the rest."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: PartitionSpec(TABLE_AXIS) if is_table(path) else PartitionSpec(), tree
    )
