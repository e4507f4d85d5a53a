"""The way of host arrays to the devices of a mesh, and of batch results back to the host.

Letters: G shards, R rows of a shard, L session slots of a row, S = R * L, T item slots of a shard, V rows of a table,
W values of an item.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Float, Int

from sessionrec_jax.data.batches import Batch
from sessionrec_jax.devices.mesh import batch_shards, by_row, over_batch, replicated, shards_here, side_by_side
from sessionrec_jax.loss.negatives import Proposal
from sessionrec_jax.model.embedding import Side
from sessionrec_jax.model.spec import Inputs


class ShardedInputs(NamedTuple):
    """The arrays of a packed batch that a step reads (contract 2)."""

    item_GT: Int[Array, "G T"]
    feedback_GT: Int[Array, "G T"]
    session_of_item_GT: Int[Array, "G T"]
    user_of_session_GRL: Int[Array, "G R L"]
    position_GRL: Int[Array, "G R L"]
    seconds_GRL: Int[Array, "G R L"]
    target_GS: Bool[Array, "G S"]
    """True for a session whose items are scored."""
    context_GRL: dict[str, Int[Array, "G R L"]] = {}
    """Codes of each column of session context."""
    click_probability_GT: Float[Array, "G T"] | None = None
    """Soft labels of the rank loss. None: the clicks."""

    def shards(self, item_GT: Int[Array, "G T"] | None = None) -> Inputs:
        """Returns the inputs of the model, with a leading axis of shards for `jax.vmap`; `item_GT` replaces the ids."""
        return Inputs(
            item_T=self.item_GT if item_GT is None else item_GT,
            feedback_T=self.feedback_GT,
            session_of_item_T=self.session_of_item_GT,
            user_of_session_RL=self.user_of_session_GRL,
            position_RL=self.position_GRL,
            seconds_RL=self.seconds_GRL,
            context=self.context_GRL,
        )


def put_batch(batch: Batch, mesh: jax.sharding.Mesh) -> ShardedInputs:
    """Returns a host batch on the devices, its shards spread over the batch axes."""
    return put_shards(_read_by_step(batch), mesh)


def put_batches(batches: Sequence[Batch], mesh: jax.sharding.Mesh) -> ShardedInputs:
    """Returns a batch for each run that trains in this process; several batches get a leading axis of runs."""
    if len(batches) == 1:
        return put_batch(batches[0], mesh)
    stacked = jax.tree.map(lambda *x_G: np.stack(x_G), *map(_read_by_step, batches))
    return jax.device_put(stacked, side_by_side(over_batch(mesh)))


def _read_by_step(batch: Batch) -> ShardedInputs:
    return ShardedInputs(
        item_GT=batch.item_GT,
        feedback_GT=batch.feedback_GT,
        session_of_item_GT=batch.session_of_item_GT,
        user_of_session_GRL=batch.user_of_session_GRL,
        position_GRL=batch.position_GRL,
        seconds_GRL=batch.seconds_GRL,
        target_GS=batch.target_GRL.reshape(len(batch.target_GRL), -1),
        context_GRL=batch.context_GRL,
        click_probability_GT=batch.click_probability_GT,
    )


def put_shards(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """Turns arrays of the shards that this process holds into arrays of all shards, spread over the batch axes."""
    spread = over_batch(mesh)
    if jax.process_count() == 1:
        return jax.device_put(tree, spread)
    held = shards_here(mesh)[0]

    def spread_out(x_G: np.ndarray) -> jax.Array:
        parts = len(x_G) // len(held)  # the microbatches of a training step: a device has them one after the other
        own = {shard * parts: x_G[n * parts : (n + 1) * parts] for n, shard in enumerate(held)}
        shape = (batch_shards(mesh) * parts, *x_G.shape[1:])
        return _from_parts(shape, spread, lambda at: own[at[0].start or 0])

    return jax.tree.map(spread_out, tree)


def held_shards(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """Returns on the host the shards that this process holds, of device arrays with a leading axis of shards."""
    if jax.process_count() == 1:
        return jax.device_get(tree)

    def held(x_G: jax.Array) -> np.ndarray:
        parts = {part.index[0].start or 0: part.data for part in x_G.addressable_shards}
        return np.concatenate([jax.device_get(parts[shard]) for shard in sorted(parts)])

    return jax.tree.map(held, _spread_over_batch(mesh)(tree))


@functools.lru_cache(maxsize=16)
def _spread_over_batch(mesh: jax.sharding.Mesh) -> Any:
    return jax.jit(lambda tree: tree, out_shardings=over_batch(mesh))


def put(tree: Any, places: Any) -> Any:
    """Puts whole arrays, the same on every process, on the devices; `places` is a tree of shardings like `tree`."""
    return jax.device_put(tree, places) if jax.process_count() == 1 else jax.tree.map(_put_one, tree, places)


def _put_one(x: Any, place: NamedSharding) -> jax.Array:
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_put_one(jax.random.key_data(x), place))
    whole = np.asarray(jax.device_get(x))  # device_put would first compare it over all processes
    return _from_parts(whole.shape, place, lambda at: whole[at])


def _from_parts(shape: tuple[int, ...], place: NamedSharding, part: Callable[[Any], np.ndarray]) -> jax.Array:
    with jax.transfer_guard_host_to_device("allow"):  # an explicit transfer, which jax does not recognise as one
        return jax.make_array_from_callback(shape, place, part)


def put_replicated(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """Puts host numbers and arrays whole on every device."""
    tree = jax.tree.map(np.asarray, tree)
    return put(tree, jax.tree.map(lambda _: replicated(mesh), tree))


def put_side(side: dict[str, np.ndarray], rows: int, mesh: jax.sharding.Mesh) -> Side:
    """Puts the items' side information and content vectors [V, W] on the devices, padded to `rows` and spread like the
    item tables. The host reads the rows of one device at a time."""
    spread = by_row(mesh, rows)

    def own(x_VW: np.ndarray, at: tuple[slice, ...]) -> np.ndarray:
        first, last, _ = at[0].indices(rows)
        rows_RW = x_VW[first:last]
        return np.pad(rows_RW, ((0, last - first - len(rows_RW)), (0, 0)))

    return {
        name: _from_parts((rows, x_VW.shape[1]), spread, functools.partial(own, x_VW)) for name, x_VW in side.items()
    }


def put_proposal(proposal: Proposal, rows: int, mesh: jax.sharding.Mesh) -> Proposal:
    """Puts the distribution of the negatives on the devices, padded to `rows` and spread like the item tables."""
    fill = Proposal(-np.inf, None if proposal.first_V is None else 2**32 - 1)

    def padded(x_V: np.ndarray, fill: float | int) -> jax.Array:
        return put(np.pad(x_V, (0, rows - len(x_V)), constant_values=fill), by_row(mesh, rows))

    return jax.tree.map(padded, proposal, fill)
