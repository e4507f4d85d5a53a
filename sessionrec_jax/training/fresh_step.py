"""Training steps on sessions that are drawn on the device: many steps in one program, and no input at all.

Letters: G shards, B rows of a shard, L sessions of a row, S = B * L, C categories, D width, N steps of a program.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sessionrec_jax.data.synthetic.device import Draw, FreshSessions, ProcessTables, draw
from sessionrec_jax.devices.gathered_rows import with_own_rows
from sessionrec_jax.devices.mesh import batch_shards, over_batch, over_shards, replicated, side_by_side
from sessionrec_jax.devices.sharding import shardings
from sessionrec_jax.loss.session import Sums, Terms
from sessionrec_jax.model import sessionrec
from sessionrec_jax.model.anchor_inputs import anchor_inputs
from sessionrec_jax.model.dropout import Noise
from sessionrec_jax.model.embedding import Side
from sessionrec_jax.model.spec import Inputs, Params
from sessionrec_jax.training.step import (
    Program,
    Scalars,
    State,
    abstract_state,
    dense_update,
    in_type_of_sums,
    noise_of,
)

MOST_STEPS = 256
"""Steps of one call at most: the scalars and the sums of a call have this many places."""
_FRESH_OF_STEP = 2


class FreshArrays(NamedTuple):
    """Arrays that every step reads and none changes."""

    side: Side
    tables: ProcessTables


@functools.lru_cache(maxsize=16)
def make_fresh_steps(program: Program, how: Draw, *, runs: int = 1) -> Any:
    """Returns the jitted `steps(state, count, fixed, *, key, scalars) -> (state, sums)`; it donates `state`.

    It takes the next `count` steps, at most MOST_STEPS. `scalars` and the sums have a last axis of MOST_STEPS, of which
    the first `count` places matter. The body of the loop is compiled once, so the parameters do not depend on how the
    steps are divided into calls, to the last bit. With several `runs` each takes its own steps: every argument but
    `count` and `fixed` has a leading axis of runs.
    """

    def steps(state: State, count: Array, fixed: FreshArrays, *, key: Array, scalars: Scalars) -> tuple[State, Sums]:
        def body(n: Array, carry: tuple[State, Sums]) -> tuple[State, Sums]:
            state, sums_N = carry
            state, sums = fresh_step(program, how, state, fixed, key=key, scalars=jax.tree.map(lambda x: x[n], scalars))
            return state, jax.tree.map(lambda all_N, one: all_N.at[n].set(one), sums_N, sums)

        return jax.lax.fori_loop(0, count, body, (state, Sums(*[jnp.zeros(MOST_STEPS)] * len(Sums._fields))))

    places = (
        shardings(program.mesh, program.spec.model, abstract_state(program.spec, program.optimizer)),
        replicated(program.mesh),
    )
    if runs > 1:
        steps = jax.vmap(steps, in_axes=(0, None, None))  # arguments by keyword are always mapped over axis 0
        places = jax.tree.map(side_by_side, places)
    return jax.jit(steps, donate_argnums=0, out_shardings=places)


def sessions_key(step_key: Array) -> Array:
    """Returns the key of the sessions that a step draws."""
    return jax.random.fold_in(step_key, _FRESH_OF_STEP)


def fresh_step(
    program: Program, how: Draw, state: State, fixed: FreshArrays, *, key: Array, scalars: Scalars
) -> tuple[State, Sums]:
    """Draws sessions, takes the gradient of the rank loss, and updates the parameters."""
    step_key = jax.random.fold_in(key, state.step)
    sessions = draw(fixed.tables, sessions_key(step_key), how)
    anchor_GBL, exposures_GSC, clicks_GSC = _spread_over_shards(program, sessions)
    inputs_G = jax.vmap(anchor_inputs)(anchor_GBL)
    noise_G = noise_of(program.spec, step_key, inputs_G.user_of_session_RL)
    exposures = jnp.sum(jnp.broadcast_to(exposures_GSC, clicks_GSC.shape))

    def objective(params: Params) -> tuple[Float[Array, ""], Sums]:
        logit_GSC = _category_logits(program, params, fixed, inputs_G, noise_G)
        nats = jnp.sum(exposures_GSC * jax.nn.softplus(logit_GSC) - clicks_GSC * logit_GSC)
        sums = Sums(jnp.zeros(()), jnp.zeros(()), nats, exposures)
        return sums.objective(program.loss.alpha, Terms(jnp.zeros(()), exposures)), sums

    gradient, sums = jax.grad(objective, has_aux=True)(state.params)
    params, optimizer_state = dense_update(program, state, scalars, gradient)
    return State(state.step + 1, params, optimizer_state), sums


def _category_logits(
    program: Program, params: Params, fixed: FreshArrays, inputs_G: Inputs, noise_G: Noise | None
) -> Float[Array, "G S C"]:
    """Returns the log odds that an exposure of each category is clicked in the session after each one."""
    spec, params = with_own_rows(program.spec, program.mesh, in_type_of_sums(program, params), fixed.side)

    def encode(inputs: Inputs, noise: Noise | None) -> Float[Array, "S D"]:
        return sessionrec.apply(spec, params, inputs, fixed.side, noise=noise)[1].rank_SD

    query_GSD = over_shards(program.mesh, encode, inputs_G, noise_G)
    e_CD = sessionrec.embed(spec, params, fixed.tables.shown_C, fixed.side)
    products_GSC = jnp.einsum("GSD,CD->GSC", query_GSD.astype(jnp.float32), e_CD.astype(jnp.float32))
    return products_GSC + params["heads"]["rank_bias"]


def _spread_over_shards(
    program: Program, sessions: FreshSessions
) -> tuple[Int[Array, "G B L"], Float[Array, "#G #S C"], Float[Array, "G S C"]]:
    """Returns the anchors of each shard, and the labels of its sessions."""
    shards = batch_shards(program.mesh)

    def shard(x_BLX: Array) -> Array:
        if len(x_BLX) == 1:  # the same for all rows
            return x_BLX
        x_GBLX = x_BLX.reshape(shards, -1, *x_BLX.shape[1:])
        return jax.lax.with_sharding_constraint(x_GBLX, over_batch(program.mesh))

    def labels(x_BLC: Array) -> Array:
        x_GBLC = shard(x_BLC)
        return x_GBLC.reshape(x_GBLC.shape[0], -1, x_GBLC.shape[-1])

    return shard(sessions.anchor_BL), labels(sessions.exposures_BLC), labels(sessions.clicks_BLC)
