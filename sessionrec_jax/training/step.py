"""One pure training step, jitted under a mesh: state and batch in, state and sums out.

Letters: G shards, T item slots of a shard, S session slots of a shard, N negatives, M gathered rows, D width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from sessionrec_jax.config.settings import Config, Loss, Optim
from sessionrec_jax.config.values import program_of
from sessionrec_jax.data.catalogue import Catalogue
from sessionrec_jax.devices.gathered_rows import (
    ReadRows,
    RowGather,
    ShardCatalogue,
    ShardRows,
    UpdatedRows,
    full_log_sum,
    joined,
)
from sessionrec_jax.devices.mesh import BATCH_AXES, replicated, side_by_side
from sessionrec_jax.devices.placement import ShardedInputs, put, put_replicated
from sessionrec_jax.devices.sharding import is_matrix, is_table, shardings
from sessionrec_jax.devices.spread_proposal import spread_item_of
from sessionrec_jax.loss.negatives import Negatives, Proposal, draw_negatives
from sessionrec_jax.loss.retrieval import SampledItems, ShardItems
from sessionrec_jax.loss.session import Sums, session_loss, terms_of
from sessionrec_jax.loss.targets import Targets, targets
from sessionrec_jax.model import sessionrec
from sessionrec_jax.model.dropout import Noise
from sessionrec_jax.model.embedding import Side
from sessionrec_jax.model.spec import Inputs, Params, Queries, Spec
from sessionrec_jax.training import optim

_INIT_STREAM, _STEPS_STREAM = 0, 1
_NEGATIVES_OF_STEP, _DROPOUT_OF_STEP = 0, 1


class State(NamedTuple):
    """Everything that a step changes."""

    step: jax.Array
    params: Params
    optimizer: Any


class FixedArrays(NamedTuple):
    """Arrays of the catalogue that every step reads and none changes; runs that train side by side share them."""

    side: Side
    proposal: Proposal


class Scalars(NamedTuple):
    """The numbers of a step that differ between runs; arguments, so that the runs of a sweep share one program."""

    learning_rate: Any
    prior: Any
    """Weight of the squared norm of the ID table in the objective, once the heads have grown."""


class Program(NamedTuple):
    """The settings that a step is compiled for."""

    spec: Spec
    loss: Loss
    optimizer: Optim
    mesh: jax.sharding.Mesh
    microbatches: int

    @property
    def is_full(self) -> bool:
        """True if the retrieval loss scores the whole catalogue, so that no negatives are drawn."""
        return self.loss.retrieval == "full_softmax"


@functools.lru_cache(maxsize=16)
def make_step(
    spec: Spec, loss: Loss, optimizer: Optim, mesh: jax.sharding.Mesh, *, microbatches: int = 1, runs: int = 1
) -> Any:
    """Returns the jitted `step(state, inputs, fixed, key=, scalars=) -> (state, Sums)`; it donates `state`.

    `key` is the root of the run's randomness, the same at every step. Sums are global and the objective is their ratio,
    so the loss does not depend on how the batch is spread. Each device has `microbatches` shards of the batch, computed
    one after the other, whose gradients are added up. With several `runs` each takes its own step: every argument but
    `fixed` has a leading axis of runs.
    """
    step = functools.partial(train_step, Program(spec, loss, optimizer, mesh, microbatches=microbatches))
    places = (shardings(mesh, spec.model, abstract_state(spec, optimizer)), replicated(mesh))
    if runs > 1:
        step = jax.vmap(step, in_axes=(0, 0, None))  # arguments by keyword are always mapped over axis 0
        places = jax.tree.map(side_by_side, places)
    return jax.jit(step, donate_argnums=0, out_shardings=places)


class StepBatch(NamedTuple):
    """Everything the objective reads of a batch; each array has a leading axis of shards, so that it can be cut into
    microbatches."""

    inputs: ShardedInputs
    place_GT: Int[Array, "G T"]
    """Place of each item among the rows of its shard."""
    targets_G: Targets
    noise_G: Noise | None
    rows: ShardRows | None
    """None if the catalogue is read whole, so that it has no axis of shards."""


class Gradients(NamedTuple):
    """The gradient of the objective, by what the step reads."""

    tables: Params
    """[G, M, ...]: for the rows of every shard."""
    others: Params
    whole: Params | None
    """For the whole tables, which only the full softmax reads."""


def train_step(
    program: Program, state: State, inputs: ShardedInputs, fixed: FixedArrays, *, key: jax.Array, scalars: Scalars
) -> tuple[State, Sums]:
    """Fetches the rows that the batch reads, takes the gradient, and updates the parameters."""
    spec, loss = program.spec, program.loss
    targets_G = jax.vmap(targets)(
        inputs.feedback_GT, inputs.session_of_item_GT, inputs.target_GS, inputs.click_probability_GT
    )
    step_key = jax.random.fold_in(key, state.step)
    negatives = None
    if loss.retrieval not in ("full_softmax", "none"):
        draw_key = jax.random.fold_in(step_key, _NEGATIVES_OF_STEP)
        item_of = functools.partial(spread_item_of, program.mesh, spec.ids)
        negatives = draw_negatives(
            loss, draw_key, fixed.proposal, item_GT=inputs.item_GT, clicked_GT=targets_G.clicked_T, item_of=item_of
        )
    gather = RowGather.of_step(
        spec,
        program.mesh,
        item_GT=inputs.item_GT,
        negatives=negatives,
        side=fixed.side,
        reads_all=program.is_full,
    )
    read = gather.read(state.params, fixed.side, fixed.proposal.log_q_V)
    noise_G = noise_of(spec, step_key, inputs.user_of_session_GRL)
    batch = StepBatch(inputs, gather.place_GT, targets_G, noise_G, read.rows if gather.id_GM is not None else None)
    gradients, sums = _gradients(program, state.params, batch, fixed, gather=gather, read=read, negatives=negatives)
    own, tables = gather.sum_at_owners(gradients.tables)
    if program.optimizer.table_update == "sparse":
        params, optimizer_state = sparse_update(program, state, scalars, own, joined(tables, gradients.others))
    else:
        gradient = own.put(optax.tree.zeros_like(state.params), joined(tables, gradients.others))
        if gradients.whole is not None:
            gradient = optax.tree.add(gradient, gradients.whole)
        params, optimizer_state = dense_update(program, state, scalars, gradient)
    return State(state.step + 1, params, optimizer_state), sums


def _gradients(
    program: Program,
    params: Params,
    batch: StepBatch,
    fixed: FixedArrays,
    *,
    gather: RowGather,
    read: ReadRows,
    negatives: Negatives | None,
) -> tuple[Gradients, Sums]:
    """Returns the gradient of the objective, and its sums."""
    loss = program.loss
    terms_G = jax.vmap(functools.partial(terms_of, loss))(batch.targets_G, batch.inputs.session_of_item_GT)
    terms = jax.tree.map(jnp.sum, terms_G)

    def objective(tables: Params, others: Params, whole: Params, batch: StepBatch) -> tuple[Float[Array, ""], Sums]:
        others, log_sums = in_type_of_sums(program, others), None
        if program.is_full:
            log_sums = functools.partial(
                full_log_sum, loss=loss, spec=program.spec, mesh=program.mesh, params=whole, side=fixed.side
            )
        catalogue_G, axes = gather.catalogues(ReadRows(tables, others, batch.rows or read.rows))
        sums = session_sums(loss, gather.shard_spec, catalogue_G, axes, batch, negatives=negatives, log_sums=log_sums)
        return sums.objective(loss.alpha, terms), sums

    def gradients(tables: Params, batch: StepBatch) -> tuple[Params, tuple[Any, Sums]]:
        """Returns the gradient of the shards' own rows, and everything that is added up over shards."""
        of = (0, 1, 2) if program.is_full else (0, 1)
        found, sums = jax.grad(objective, argnums=of, has_aux=True)(tables, read.others, params, batch)
        return found[0], (found[1:], sums)

    with jax.sharding.use_abstract_mesh(program.mesh.abstract_mesh):
        tables, (others, sums) = _over_microbatches(gradients, (read.tables, batch), program.microbatches)
    return Gradients(tables, *others, *([] if program.is_full else [None])), sums


def in_type_of_sums(program: Program, others: Params) -> Params:
    """Returns the body's parameters, its matrices in the type in which devices add up their gradients. The model would
    round them anyway; rounded out here, the gradients of all shards have this type too."""

    def of_type(path: tuple[Any, ...], x: Array) -> Array:
        is_summed = not is_table(path) and is_matrix(program.spec.model, path)
        return x.astype(program.optimizer.gradient_sum) if is_summed else x

    return jax.tree_util.tree_map_with_path(of_type, others)


def session_sums(
    loss: Loss,
    spec: Spec,
    catalogue_G: ShardCatalogue,
    axes: ShardCatalogue,
    batch: StepBatch,
    *,
    negatives: Negatives | None,
    log_sums: Callable[[Float[Array, "G S D"], Int[Array, "G T"], Targets], Float[Array, "G S"]] | None,
) -> Sums:
    """Runs the model and both losses on a batch, and returns the sums over its shards.

    `axes` are those of `catalogue_G` for `jax.vmap`. `log_sums` sums over the whole catalogue for the full softmax; a
    sampled loss has None.
    """

    def encode(catalogue: ShardCatalogue, inputs: Inputs, noise: Noise | None) -> tuple[Float[Array, "T D"], Queries]:
        return sessionrec.apply(spec, catalogue.params, inputs, catalogue.side, noise=noise)

    over_shards = functools.partial(jax.vmap, spmd_axis_name=BATCH_AXES)
    e_GTD, queries_G = over_shards(encode, in_axes=(axes, 0, 0))(
        catalogue_G, batch.inputs.shards(batch.place_GT), batch.noise_G
    )
    log_sum_GS = None
    if log_sums is not None:
        log_sum_GS = log_sums(queries_G.retrieval_SD, batch.inputs.item_GT, batch.targets_G)

    def sample(catalogue: ShardCatalogue) -> SampledItems:
        sampled = SampledItems(negatives, jnp.zeros((0, 0)), catalogue.log_q_M, catalogue.place_N)
        return sampled._replace(e_ND=sessionrec.embed(spec, catalogue.params, sampled.rows_N, catalogue.side))

    def loss_of_shard(
        catalogue: ShardCatalogue, queries: Queries, items: ShardItems, log_sum_S: Float[Array, " S"] | None
    ) -> Sums:
        sampled = None if negatives is None else sample(catalogue)
        # Rows past the ids are not items.
        heads = catalogue.params["heads"]
        heads = heads | {"item_bias": heads["item_bias"][: spec.ids]}
        return session_loss(loss, queries, items, heads=heads, sampled=sampled, log_sum_S=log_sum_S)

    items_G = ShardItems(batch.place_GT, e_GTD, batch.targets_G, batch.inputs.item_GT)
    sums_G = over_shards(loss_of_shard, in_axes=(axes, 0, 0, 0))(catalogue_G, queries_G, items_G, log_sum_GS)
    return jax.tree.map(lambda x_G: x_G.sum(), sums_G)


def sparse_update(
    program: Program, state: State, scalars: Scalars, own: UpdatedRows, gradient: Params
) -> tuple[Params, Any]:
    """Returns parameters and optimizer state; of the tables only the rows that the batch reads are read and written.

    `gradient` has these rows of the tables.
    """
    rule = optim.chain(program.optimizer, program.spec.model)
    rows = own.take(state.params)
    gradient = _with_prior(program.spec, gradient, rows, scalars.prior)
    direction, rows_state = rule.update(gradient, own.take(state.optimizer), rows)
    rows = optax.tree.add_scale(rows, -scalars.learning_rate, direction)
    return own.put(state.params, rows), own.put(state.optimizer, rows_state)


def dense_update(program: Program, state: State, scalars: Scalars, gradient: Params) -> tuple[Params, Any]:
    """Returns parameters and optimizer state; every row of the tables is updated."""
    rule = optim.chain(program.optimizer, program.spec.model)
    gradient = _with_prior(program.spec, gradient, state.params, scalars.prior)
    direction, optimizer_state = rule.update(gradient, state.optimizer, state.params)
    return optax.tree.add_scale(state.params, -scalars.learning_rate, direction), optimizer_state


def _with_prior(spec: Spec, gradient: Params, params: Params, prior: jax.Array) -> Params:
    """Adds the gradient of the prior, at the strength that the heads allow.

    While both heads are zero, the ID table has no other gradient, and Adagrad makes a step of full length of any: the
    prior alone would shrink the table to nothing before the heads have grown, and with it the gradient of the heads
    (LOG.md). Its strength is therefore second order in the heads, where the gradient of the loss is first order.
    """
    weight = prior * sessionrec.heads_share(spec, params)
    return optax.tree.add_scale(gradient, weight, jax.grad(sessionrec.id_table_norm)(params))


def _over_microbatches(function: Callable[..., tuple[Any, Any]], shards: Any, microbatches: int) -> tuple[Any, Any]:
    """Returns what `function` returns, computed one microbatch after the other.

    `shards`: its arguments, arrays with a leading axis of shards, in which a device's shards are next to each other.
    The first result has that axis too; the second is added up.
    """
    if microbatches == 1:
        return function(*shards)

    def cut(x_G: Array) -> Array:
        return jnp.swapaxes(x_G.reshape(-1, microbatches, *x_G.shape[1:]), 0, 1)

    def whole(x_BG: Array) -> Array:
        return jnp.swapaxes(x_BG, 0, 1).reshape(-1, *x_BG.shape[2:])

    def add(total: Any, shards: Any) -> tuple[Any, Any]:
        of_shards, sums = function(*shards)
        return jax.tree.map(jnp.add, total, sums), of_shards

    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, *shards)[1])
    total, of_shards_B = jax.lax.scan(add, zero, jax.tree.map(cut, shards))
    return jax.tree.map(whole, of_shards_B), total


def root_key(seed: int) -> Array:
    """Returns the root of all that a run draws after its first state."""
    return jax.random.fold_in(jax.random.key(seed), _STEPS_STREAM)


def noise_of(spec: Spec, step_key: jax.Array, user_of_session_GRL: Int[Array, "G R L"]) -> Noise | None:
    """Returns the randomness of dropout for every shard; that of a row does not depend on which device has it. None for
    a model without dropout."""
    if not (spec.model.dropout or spec.model.id_dropout):
        return None
    key = jax.random.fold_in(step_key, _DROPOUT_OF_STEP)
    shards, rows = user_of_session_GRL.shape[:2]
    return Noise(jnp.broadcast_to(key, (shards,)), jnp.arange(shards * rows).reshape(shards, rows))


def abstract_state(spec: Spec, optimizer: Optim) -> State:
    """Returns the shapes and types of a State."""
    return jax.eval_shape(lambda: _state(optimizer, spec, sessionrec.init_params(spec, jax.random.key(0))))


def initial_state(config: Config, spec: Spec, catalogue: Catalogue, mesh: jax.sharding.Mesh) -> State:
    """Makes the state on its devices: none of them ever holds more than its own part of a table."""
    key = put(jax.random.fold_in(jax.random.key(config.train.seed), _INIT_STREAM), replicated(mesh))
    biases = put_replicated(sessionrec.popularity(spec, catalogue), mesh)
    return initialiser(spec, program_of(config).optim, mesh)(key, biases)


@functools.lru_cache(maxsize=16)
def initialiser(spec: Spec, optimizer: Optim, mesh: jax.sharding.Mesh) -> Any:
    """Returns the jitted `(key, biases of the heads) -> State`, spread over the mesh."""

    def state(key: jax.Array, biases: dict[str, jax.Array]) -> State:
        return _state(optimizer, spec, sessionrec.init_with_biases(spec, key, biases))

    return jax.jit(state, out_shardings=shardings(mesh, spec.model, abstract_state(spec, optimizer)))


def _state(optimizer: Optim, spec: Spec, params: Params) -> State:
    return State(jnp.zeros((), jnp.int32), params, optim.chain(optimizer, spec.model).init(params))
