"""The facts of every trained parameter of the body, by its path, such as sequence_encoder/blocks/qkv.

Each module states the rows of its own parameters. Sharding, muP and weight decay read them here. The item tables
(devices/sharding.py) have no row: they have an optimizer of their own.
"""

from __future__ import annotations

import functools
import re

from sessionrec_jax.config.settings import Model
from sessionrec_jax.model import embedding, sequence_encoder, session_context, session_encoder, sessionrec
from sessionrec_jax.model.facts import Parameter
from sessionrec_jax.model.parametrization import width_ratio


@functools.cache
def parameter(model: Model, path: str) -> Parameter:
    """Returns the row of the parameter at `path`. Raises ValueError unless exactly one row matches."""
    module, _, below = path.partition("/")
    found = [row for row in _tables(model).get(module, ()) if re.fullmatch(row.path, below)]
    if len(found) != 1:
        raise ValueError(f"parameter {path!r} matches {len(found)} rows of its module's table; give it exactly one row")
    return found[0]


def learning_rate_multiplier(model: Model, path: str) -> float:
    """Returns the learning rate of the body parameter at `path` over the run's learning rate."""
    return 1 / width_ratio(model) if parameter(model, path).sums_over_width else 1.0


@functools.cache
def _tables(model: Model) -> dict[str, tuple[Parameter, ...]]:
    return {
        "item_embedding": embedding.PARAMETERS,
        "session_context": session_context.PARAMETERS,
        "session_encoder": session_encoder.parameter_table(model),
        "sequence_encoder": sequence_encoder.parameter_table(model),
        "heads": sessionrec.HEAD_PARAMETERS,
    }
