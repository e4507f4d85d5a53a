"""One pure training step, jitted under a mesh: state and batch in, state and sums out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sessionrec_jax.config.settings import Config, Loss, Optim
from sessionrec_jax.config.values import program_of
from sessionrec_jax.data.catalogue import Catalogue
from sessionrec_jax.devices.gathered_rows import Read, Reading, full_log_sum
from sessionrec_jax.devices.mesh import put, put_replicated, replicated, side_by_side
from sessionrec_jax.devices.sharding import shardings
from sessionrec_jax.loss.session import Proposal, Sums, Targets, draw_negatives, session_loss, targets, terms_of
from sessionrec_jax.model import sessionrec
from sessionrec_jax.model.dropout import Noise
from sessionrec_jax.model.embedding import Side
from sessionrec_jax.model.spec import Inputs, Params, Queries, Spec
from sessionrec_jax.training import optim

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
def make_step(
    spec: Spec, loss: Loss, optimizer: Optim, mesh: jax.sharding.Mesh, microbatches: int = 1, runs: int = 1
) -> Any:
    """The jitted `step(state, inputs, target_GS, side, proposal, key, scalars) -> (state, Sums)`.

    Sums are global; the objective is their ratio, so the loss does not depend on how the batch is spread. Each device
    has `microbatches` shards of it, computed one after the other, whose gradients are added up. With several `runs`
    each takes its own step: all but `side` and `proposal`, which they share, has a leading axis of runs.
    """
    update_rule = optim.chain(optimizer, spec.model)
    is_full, is_sparse = loss.retrieval == "full_softmax", optimizer.table_update == "sparse"

    def session_sums(read: Read, inputs: Inputs, target_GS: jax.Array, noise_G: Noise | None, log_sums: Any) -> Sums:
        """Of all shards. `read` has the ids of the part of the catalogue that is read, `inputs` those of the whole."""
        spec, params, negatives = read.spec, read.params, read.negatives
        e_ND = None
        if negatives is not None:
            e_ND = sessionrec.embed(spec, params, jnp.minimum(negatives.item_N, spec.ids - 1), read.side)

        def encoded(inputs: Inputs, target_S: jax.Array, noise: Noise | None) -> Any:
            wanted = targets(inputs.feedback_T, inputs.session_of_item_T, target_S)
            return *sessionrec.apply(spec, params, inputs, read.side, noise), wanted

        e_GTD, queries_G, wanted_G = jax.vmap(encoded)(inputs._replace(item_T=read.item_GT), target_GS, noise_G)
        # no item has the rows past the ids
        heads = params["heads"] | {"item_bias": params["heads"]["item_bias"][: spec.ids]}
        log_sum_GS = log_sums(queries_G.retrieval_SD, inputs.item_T, wanted_G) if is_full else None

        def lost(queries: Queries, e_TD: jax.Array, item_T: jax.Array, wanted: Targets, log_sum_S: Any) -> Sums:
            scored = (loss, queries, e_TD, item_T, wanted, heads, read.log_q_V)
            return session_loss(*scored, negatives, e_ND, log_sum_S)

        of_shards = jax.vmap(lost)(queries_G, e_GTD, read.item_GT, wanted_G, log_sum_GS)
        return jax.tree.map(lambda x_G: x_G.sum(), of_shards)

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
        wanted_G = jax.vmap(targets)(inputs.feedback_T, inputs.session_of_item_T, target_GS)
        terms_G = jax.vmap(functools.partial(terms_of, loss))(wanted_G, inputs.session_of_item_T)
        terms = jax.tree.map(jnp.sum, terms_G)
        negatives = None
        if not is_full:
            draw_key = jax.random.fold_in(step_key, _NEGATIVES_OF_STEP)
            negatives = draw_negatives(loss, draw_key, proposal, inputs.item_T, wanted_G.clicked_T)
        noise_G = None
        if spec.model.dropout or spec.model.id_dropout:
            noise_G = _noise(jax.random.fold_in(step_key, _DROPOUT_OF_STEP), inputs)
        reading = Reading.of(spec, mesh, inputs.item_T, negatives, side)

        def objective(part: Params, whole: Params, item_GT: jax.Array, *batch: Any) -> tuple[jax.Array, Sums]:
            read = reading.read(part, side, proposal.log_q_V)._replace(item_GT=item_GT)
            log_sums = functools.partial(full_log_sum, spec, loss, mesh, whole, side) if is_full else None
            sums = session_sums(read, *batch, log_sums)
            return sums.objective(loss.alpha, terms), sums

        def with_prior(gradient: Params, params: Params) -> Params:
            of_norm = jax.grad(sessionrec.id_table_norm)(params)
            return optax.tree.add_scale(gradient, scalars.prior, of_norm)

        part = reading.take(state.params)
        read_by = (0, 1) if is_full else (0,)
        gradient_of = functools.partial(jax.grad(objective, argnums=read_by, has_aux=True), part, state.params)
        (of_part, *of_whole), sums = _sum_over_microbatches(
            gradient_of, microbatches, reading.item_GT, inputs, target_GS, noise_G
        )
        if is_sparse:
            optimizer_part = reading.take(state.optimizer)
            direction, optimizer_part = update_rule.update(with_prior(of_part, part), optimizer_part, part)
            part = optax.tree.add_scale(part, -scalars.learning_rate, direction)
            params, optimizer_state = reading.put(state.params, part), reading.put(state.optimizer, optimizer_part)
        else:
            gradient = functools.reduce(
                optax.tree.add, of_whole, reading.put(optax.tree.zeros_like(state.params), of_part)
            )
            gradient = with_prior(gradient, state.params)
            direction, optimizer_state = update_rule.update(gradient, state.optimizer, state.params)
            params = optax.tree.add_scale(state.params, -scalars.learning_rate, direction)
        return State(state.step + 1, params, optimizer_state), sums

    places = (shardings(mesh, spec.model, abstract_state(spec, optimizer)), replicated(mesh))
    if runs > 1:
        step = jax.vmap(step, in_axes=(0, 0, 0, None, None, 0, 0))
        places = jax.tree.map(side_by_side, places)
    return jax.jit(step, donate_argnums=0, out_shardings=places)


def _sum_over_microbatches(function: Callable[..., Any], microbatches: int, *batch_G: Any) -> Any:
    """The sum of `function` over the parts of a batch whose devices have so many shards each."""
    if microbatches == 1:
        return function(*batch_G)
    batch_PG = jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, microbatches, *x.shape[1:]), 0, 1), batch_G)

    def add(total: Any, batch_G: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, function(*batch_G)), None

    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, *batch_G))
    return jax.lax.scan(add, zero, batch_PG)[0]


def _noise(key: jax.Array, inputs: Inputs) -> Noise:
    """Of every shard: the same for a row wherever it lies."""
    shards, rows = inputs.user_of_session_RL.shape[:2]
    return Noise(jnp.broadcast_to(key, (shards,)), jnp.arange(shards * rows).reshape(shards, rows))


def abstract_state(spec: Spec, optimizer: Optim) -> State:
    """Shapes and types of a State."""
    return jax.eval_shape(lambda: _state(optimizer, spec, sessionrec.init_params(spec, jax.random.key(0))))


def initial_state(config: Config, spec: Spec, catalogue: Catalogue, mesh: jax.sharding.Mesh) -> State:
    """Made where it lies: no device ever holds more than its own part of a table."""
    key = put(jax.random.fold_in(jax.random.key(config.train.seed), _INIT_STREAM), replicated(mesh))
    of_heads = put_replicated(sessionrec.popularity(spec, catalogue), mesh)
    return initialiser(spec, program_of(config).optim, mesh)(key, of_heads)


@functools.lru_cache(maxsize=16)
def initialiser(spec: Spec, optimizer: Optim, mesh: jax.sharding.Mesh) -> Any:
    """The jitted `(key, of_heads) -> State`, spread over the mesh."""

    def state(key: jax.Array, of_heads: dict[str, jax.Array]) -> State:
        return _state(optimizer, spec, sessionrec.init_with_biases(spec, key, of_heads))

    return jax.jit(state, out_shardings=shardings(mesh, spec.model, abstract_state(spec, optimizer)))


def _state(optimizer: Optim, spec: Spec, params: Params) -> State:
    return State(jnp.zeros((), jnp.int32), params, optim.chain(optimizer, spec.model).init(params))
