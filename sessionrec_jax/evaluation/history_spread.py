"""The measure by which retrieval scores depend on the history: where they do not, a run has never learned.

The heads begin at zero, so every history has the scores of popularity. Where a prior shrinks the ID table faster than
the heads grow, both stay at zero, and the loss looks like that of a poor model.

Letters: G shards, S session slots of a shard, K items, D width.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from sessionrec_jax.config.rules import FEWEST_STEPS
from sessionrec_jax.data.batches import eval_batches
from sessionrec_jax.data.codes import TEST
from sessionrec_jax.devices.gathered_rows import encode, with_own_rows
from sessionrec_jax.devices.mesh import replicated
from sessionrec_jax.devices.placement import ShardedInputs, put_batch, put_replicated, put_side
from sessionrec_jax.evaluation.trained_model import TrainedModel
from sessionrec_jax.model import sessionrec
from sessionrec_jax.model.embedding import Side
from sessionrec_jax.model.spec import Params, Spec

STUCK_BELOW_NATS = 0.01
_ITEMS = 512


def history_spread_nats(model: TrainedModel) -> float | None:
    """Returns the standard deviation of an item's retrieval score over the sessions of the first test batch, root mean
    square over some items that are evenly spread over the catalogue; None without a retrieval loss or a test session.
    """
    batch = next(iter(eval_batches(model.config, model.log, model.shape, TEST)), None)
    if model.config.loss.retrieval == "none" or batch is None:
        return None
    spec = model.spec.in_float32
    items = min(_ITEMS, spec.ids - 1)
    item_K = np.linspace(1, spec.ids - 1, items).astype(np.int32)
    spread = _spread(
        spec, model.mesh, model.params, put_side(model.catalogue.side, spec.rows, model.mesh),
        put_batch(batch, model.mesh), put_replicated(item_K, model.mesh),
    )  # fmt: skip
    return float(jax.device_get(spread))


def stuck(steps: int, spread_nats: float | None) -> str | None:
    """Returns why a run counts as one that never learned; None for any other, and for a run of fewer than FEWEST_STEPS
    steps, which had no time to."""
    if spread_nats is None or spread_nats >= STUCK_BELOW_NATS or steps < FEWEST_STEPS:
        return None
    return (
        f"the retrieval scores do not depend on the history: after {steps} steps they differ by {spread_nats:.1g} nats "
        "between sessions, so the run never left its start, the scores of popularity. Try another --train.seed, a "
        "smaller --optim.table-prior, or another --optim.learning-rate-peak"
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _spread(
    spec: Spec,
    mesh: jax.sharding.Mesh,
    params: Params,
    side: Side,
    inputs: ShardedInputs,
    item_K: Int[Array, " K"],
) -> Float[Array, ""]:
    _, queries = encode(spec, mesh, params, inputs=inputs, side=side)
    query_GSD = queries.retrieval_SD
    weight_GS = (inputs.user_of_session_GRL > 0).reshape(query_GSD.shape[:2]).astype(jnp.float32)
    weight_GS /= jnp.maximum(weight_GS.sum(), 1)
    centred_GSD = query_GSD - jnp.einsum("GS,GSD->D", weight_GS, query_GSD)
    covariance_DE = jnp.einsum("GS,GSD,GSE->DE", weight_GS, centred_GSD, centred_GSD)
    own_spec, own_params = with_own_rows(spec, mesh, params, side)
    e_KD = sessionrec.embed(own_spec, own_params, item_K, side)
    e_KD = jax.lax.with_sharding_constraint(e_KD, replicated(mesh))
    return jnp.sqrt(jnp.einsum("KD,DE,KE->K", e_KD, covariance_DE, e_KD).mean())
