"""A module's table of its trained parameters. Sharding, muP and weight decay read it. No jax in this file."""

from __future__ import annotations

from typing import NamedTuple


class Parameter(NamedTuple):
    """A row of the table. Every parameter of a module must match exactly one row."""

    path: str
    """Regular expression for the path below the module, such as `blocks/(mlp_in|mlp_gate)`."""
    axes: tuple[str | None, ...] = ()
    """Mesh axes of the last two dimensions; empty: every device has the whole parameter. An axis that does not divide
    its dimension is ignored."""
    sums_over_width: bool = False
    """The fan-in is proportional to the model's width. muP then divides the learning rate by the width ratio."""
    decays: bool = True
    """Weight decay applies."""


def matrix_in(path: str) -> Parameter:
    """Returns the row of a matrix from the width to hidden features, which the `model` axis shards."""
    return Parameter(path, ("fsdp", "model"), sums_over_width=True)


def matrix_out(path: str) -> Parameter:
    """Returns the row of a matrix from hidden features, which the `model` axis shards, to the width."""
    return Parameter(path, ("model", "fsdp"), sums_over_width=True)


def projection(path: str) -> Parameter:
    """Returns the row of a matrix from the width to the width between which no features are hidden."""
    return Parameter(path, ("fsdp", None), sums_over_width=True)


def vector(path: str) -> Parameter:
    """Returns the row of a bias or of a norm's scale: not sharded, not scaled by muP, no weight decay."""
    return Parameter(path, decays=False)
