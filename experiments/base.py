"""The ladder of model sizes that plans climb, smallest first."""

from __future__ import annotations

from sessionrec_jax.config import Config
from sessionrec_jax.config_values import replace
from sessionrec_jax.errors import InputError, near_miss

# Each step about triples the body (count.parameters): width grows first, then depth.
SIZES: dict[str, dict[str, int]] = {
    "xxs": {"model.width": 8, "model.layers": 1, "model.heads": 1},
    "xs": {"model.width": 16, "model.layers": 1, "model.heads": 1},
    "s": {"model.width": 32, "model.layers": 1, "model.heads": 2},
    "m": {"model.width": 48, "model.layers": 2, "model.heads": 2},
    "l": {"model.width": 96, "model.layers": 2, "model.heads": 4},
    "xl": {"model.width": 160, "model.layers": 3, "model.heads": 4},
    "2xl": {"model.width": 256, "model.layers": 4, "model.heads": 8},
    "3xl": {"model.width": 384, "model.layers": 6, "model.heads": 8},
    "4xl": {"model.width": 640, "model.layers": 8, "model.heads": 10},
}


def sized(config: Config, size: str) -> Config:
    """`config` with the model of that name. Raises InputError for an unknown one."""
    if size not in SIZES:
        raise InputError(f"unknown size {size!r}; {near_miss(size, SIZES)}")
    return replace(config, SIZES[size])
