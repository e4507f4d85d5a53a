"""SessionRec in JAX predicts the whole next session of a user. This package is the front door from Python.

>>> import sessionrec_jax as sr
>>> log = sr.prepare("table", exposures="log.csv", user="user", item="item", time="ts", clicked="label", out="DATA")
>>> run = sr.train(log, "RUN", {"model.width": 8, "data.rows": 8, "train.epochs": 4})
>>> run = sr.load("RUN")
>>> metrics = run.evaluate()
>>> answers = run.recommend("log", k=3)
>>> ids, vectors_ND = run.item_embeddings()

A name is imported when it is first used, so `import sessionrec_jax` itself loads neither jax nor Polars.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sessionrec_jax.config.settings import Config
    from sessionrec_jax.data.store import Prepared, open_log
    from sessionrec_jax.errors import InputError
    from sessionrec_jax.registry import (
        register_rank_loss,
        register_sequence_encoder,
        register_session_encoder,
        register_source,
    )
    from sessionrec_jax.serving.prepare import prepare
    from sessionrec_jax.serving.run import Run, load, train

__all__ = [
    "Config",
    "InputError",
    "Prepared",
    "Run",
    "load",
    "open_log",
    "prepare",
    "register_rank_loss",
    "register_sequence_encoder",
    "register_session_encoder",
    "register_source",
    "train",
]

_HOME = {
    "Config": "config.settings",
    "InputError": "errors",
    "Prepared": "data.store",
    "Run": "serving.run",
    "load": "serving.run",
    "open_log": "data.store",
    "prepare": "serving.prepare",
    "register_rank_loss": "registry",
    "register_sequence_encoder": "registry",
    "register_session_encoder": "registry",
    "register_source": "registry",
    "train": "serving.run",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
