"""Parameters of noise: every part of a model counts, and no program that draws them is compiled."""

from __future__ import annotations

import zlib
from typing import Any

import jax
import numpy as np

from sessionrec_jax.data.catalogue import Catalogue, from_counts
from sessionrec_jax.model import sessionrec
from sessionrec_jax.model.spec import Params, Spec


def noise_of(spec: Spec, catalogue: Catalogue | None = None) -> Params:
    """Returns normal numbers of standard deviation .3, the biases of the heads around their popularity baseline.

    Arrays of numpy, float32; parameters of one name and shape are equal in every model. Without a catalogue, item i has
    i clicks in 2 i exposures.
    """
    clicks_V = np.arange(spec.ids)
    biases = sessionrec.popularity(spec, catalogue or from_counts(clicks_V, 2 * clicks_V, {}, {}))
    shapes = jax.eval_shape(lambda: sessionrec.init_params(spec, jax.random.key(0)))
    params = jax.tree_util.tree_map_with_path(_noise, shapes)
    heads = {name: np.asarray(x + params["heads"][name], np.float32) for name, x in biases.items()}
    return params | {"heads": params["heads"] | heads}


def _noise(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
    name = jax.tree_util.keystr(path)
    return 0.3 * np.random.default_rng(zlib.crc32(name.encode())).standard_normal(leaf.shape, np.float32)
