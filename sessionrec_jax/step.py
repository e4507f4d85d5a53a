"""One pure training step, jitted under a mesh: state and batch in, state and sums out."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sessionrec_jax import optim
from sessionrec_jax.config import Config, Loss, Optim
from sessionrec_jax.data.catalogue import Catalogue
from sessionrec_jax.loss import Negatives, Proposal, Sums, draw_negatives, session_loss, targets
from sessionrec_jax.model import sessionrec
from sessionrec_jax.model.sequence_encoder import Noise
from sessionrec_jax.model.sessionrec import Inputs, Params, Side, Spec
from sessionrec_jax.partition import replicated

_INIT_STREAM = 0
_NEGATIVES_OF_STEP, _DROPOUT_OF_STEP = 0, 1


class State(NamedTuple):
    """All that a step changes."""

    step: jax.Array
    params: Params
    optimizer: Any


class Scalars(NamedTuple):
    """Numbers of a step that differ between runs; arguments, so that the runs of a sweep share one program."""

    learning_rate: Any
    prior: Any
    """Weight of the squared norm of the ID table in the objective."""


@functools.lru_cache(maxsize=16)
def make_step(spec: Spec, loss: Loss, optimizer: Optim, mesh: jax.sharding.Mesh) -> Any:
    """The jitted `step(state, inputs, target_GS, side, proposal, key, scalars) -> (state, Sums)`.

    Sums are global; the objective is their ratio, so the loss does not depend on how the batch is spread.
    """
    update_rule = optim.chain(optimizer)

    def drawn(inputs: Inputs, target_GS: jax.Array, proposal: Proposal, key: jax.Array) -> Negatives | None:
        if loss.retrieval == "full_softmax":
            return None
        wanted = jax.vmap(targets)(inputs.feedback_T, inputs.session_of_item_T, target_GS)
        return draw_negatives(loss, key, proposal, inputs.item_T, wanted.clicked_T)

    def session_sums(
        params: Params,
        inputs: Inputs,
        target_GS: jax.Array,
        side: Side,
        negatives: Negatives | None,
        log_q_V: jax.Array,
        noise_G: Noise | None,
    ) -> Sums:
        def embed(item_N: jax.Array) -> jax.Array:
            return sessionrec.embed(spec, params, item_N, side)

        e_ND = None if negatives is None else embed(jnp.minimum(negatives.item_N, spec.ids - 1))

        def shard(inputs: Inputs, target_S: jax.Array, noise: Noise | None) -> Sums:
            e_TD, queries = sessionrec.apply(spec, params, inputs, side, noise)
            wanted = targets(inputs.feedback_T, inputs.session_of_item_T, target_S)
            heads = params["heads"]
            return session_loss(loss, queries, e_TD, inputs.item_T, wanted, heads, log_q_V, negatives, e_ND, embed)

        return jax.tree.map(lambda x_G: x_G.sum(), jax.vmap(shard)(inputs, target_GS, noise_G))

    def step(
        state: State,
        inputs: Inputs,
        target_GS: jax.Array,
        side: Side,
        proposal: Proposal,
        key: jax.Array,
        scalars: Scalars,
    ) -> tuple[State, Sums]:
        step_key = jax.random.fold_in(key, state.step)
        negatives = drawn(inputs, target_GS, proposal, jax.random.fold_in(step_key, _NEGATIVES_OF_STEP))
        noise_G = _noise(jax.random.fold_in(step_key, _DROPOUT_OF_STEP), inputs) if spec.model.dropout else None

        def objective(params: Params) -> tuple[jax.Array, Sums]:
            sums = session_sums(params, inputs, target_GS, side, negatives, proposal.log_q_V, noise_G)
            return sums.objective(loss.alpha) + scalars.prior * sessionrec.id_table_norm(params), sums

        gradient, sums = jax.grad(objective, has_aux=True)(state.params)
        direction, optimizer_state = update_rule.update(gradient, state.optimizer, state.params)
        params = optax.tree.add_scale(state.params, -scalars.learning_rate, direction)
        return State(state.step + 1, params, optimizer_state), sums

    return jax.jit(step, donate_argnums=0, out_shardings=replicated(mesh))


def _noise(key: jax.Array, inputs: Inputs) -> Noise:
    """Of every shard: the same for a row wherever it lies."""
    shards, rows = inputs.user_of_session_RL.shape[:2]
    return Noise(jnp.broadcast_to(key, (shards,)), jnp.arange(shards * rows).reshape(shards, rows))


def initial_state(config: Config, spec: Spec, catalogue: Catalogue, mesh: jax.sharding.Mesh) -> State:
    key = jax.random.fold_in(jax.random.key(config.train.seed), _INIT_STREAM)
    params = sessionrec.init(spec, key, catalogue)
    state = State(jnp.zeros((), jnp.int32), params, optim.chain(config.optim).init(params))
    return jax.device_put(state, replicated(mesh))
