"""The ladder of model sizes that plans climb, smallest first, and the labels of a plan's runs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from experiments.sweep.varying import varying
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace, short, to_dict
from sessionrec_jax.errors import InputError, near_miss

SETTINGS = ("model.width", "model.layers", "model.heads")
"""Settings that a size decides."""
SIZES: dict[str, dict[str, int]] = {
    name: dict(zip(SETTINGS, values, strict=True))
    for name, values in {
        "xxs": (8, 1, 1),
        "xs": (16, 1, 1),
        "s": (32, 1, 2),
        "m": (48, 2, 2),
        "l": (96, 2, 4),
        "xl": (160, 3, 4),
        "2xl": (256, 4, 8),
        "3xl": (384, 6, 8),
        "4xl": (640, 8, 10),
    }.items()
}
"""Width, layers and heads. Each step about triples the body (count.parameters): width grows first, then depth."""


def labels(configs: Sequence[Config]) -> list[dict[str, str]]:
    """Returns for each run the settings that vary, by their last names; the model by the name of its size."""
    found = []
    for config, settings in zip(configs, varying([to_dict(config) for config in configs]), strict=True):
        named = {"size": size_of(config)} if any(name in settings for name in SETTINGS) else {}
        others = {name: short(value) for name, value in settings.items() if name not in SETTINGS}
        found.append(named | {name.rpartition(".")[2].replace("_", " "): text for name, text in others.items()})
    return found


def size_of(config: Config) -> str:
    """The name of the size that `config` has."""
    model = {name: getattr(config.model, name.removeprefix("model.")) for name in SETTINGS}
    return next((size for size, values in SIZES.items() if values == model), "x".join(map(str, model.values())))


def sized(config: Config, size: str) -> Config:
    """`config` with the model of that size: a name of the ladder, or WIDTHxLAYERSxHEADS. Raises InputError for
    another name."""
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
        return dict(zip(SETTINGS, map(int, size.split("x")), strict=True))
    raise InputError(f"unknown size {size!r}; {near_miss(size, SIZES)}, or WIDTHxLAYERSxHEADS such as 24x1x2")
