"""The ladder of model sizes that plans climb, smallest first, and what a run is called by."""

from __future__ import annotations

import re
from collections.abc import Sequence

from experiments.sweep.varying import told, varying
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace, to_dict
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


def labels(configs: Sequence[Config]) -> list[dict[str, str]]:
    """Of each run what tells it from the others, by the settings' last names; a size of the ladder by its name."""
    of_size = tuple(next(iter(SIZES.values())))
    found = []
    for config, settings in zip(configs, varying([to_dict(config) for config in configs]), strict=True):
        named = {"size": size_of(config)} if any(name in settings for name in of_size) else {}
        others = {name: told(value) for name, value in settings.items() if not (named and name in of_size)}
        found.append(named | {name.rpartition(".")[2].replace("_", " "): text for name, text in others.items()})
    return found


def size_of(config: Config) -> str:
    """The name of the size that `config` has."""
    model = {name: getattr(config.model, name.removeprefix("model.")) for name in next(iter(SIZES.values()))}
    return next((size for size, values in SIZES.items() if values == model), "x".join(map(str, model.values())))


def sized(config: Config, size: str) -> Config:
    """`config` with the model of that name: one of the ladder, or WIDTHxLAYERSxHEADS. Raises InputError for another."""
    return replace(config, _model_of(size))


def around(sizes: Sequence[str]) -> tuple[str, ...]:
    """`sizes`, and the ladder from one below the smallest to two above the largest."""

    def weight(size: str) -> int:
        return _model_of(size)["model.width"] ** 2 * _model_of(size)["model.layers"]

    weights = [weight(size) for size in sizes]
    below = [size for size in SIZES if weight(size) < min(weights)]
    above = [size for size in SIZES if weight(size) > max(weights)]
    between = [size for size in SIZES if size not in (*below, *above)]
    return tuple(dict.fromkeys(sorted([*below[-1:], *between, *sizes, *above[:2]], key=weight)))


def _model_of(size: str) -> dict[str, int]:
    if size in SIZES:
        return SIZES[size]
    if re.fullmatch(r"\d+x\d+x\d+", size):
        return dict(zip(next(iter(SIZES.values())), map(int, size.split("x")), strict=True))
    raise InputError(f"unknown size {size!r}; {near_miss(size, SIZES)}, or WIDTHxLAYERSxHEADS such as 24x1x2")
