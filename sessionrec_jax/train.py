"""Training: one pure jitted step under a mesh, and the loop from top to bottom.

    prepared = store.open_log("DATA")
    trained = train(resolve(Config(), prepared), prepared, Path("RUN"))

The loop writes metrics.jsonl and checkpoints into the run folder. Killed and started again, it goes on where its newest
checkpoint stands and ends with the same parameters, bit for bit.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sessionrec_jax import optim
from sessionrec_jax.checkpoint import Checkpoints
from sessionrec_jax.config import Config, Loss, Optim, check, replace
from sessionrec_jax.data.batches import Batch, Batches, Shape, shape_of, train_batches, train_catalogue, train_users
from sessionrec_jax.data.catalogue import Catalogue
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.errors import InputError
from sessionrec_jax.loss import Negatives, Proposal, Sums, draw_negatives, proposal, session_loss, targets
from sessionrec_jax.model import sessionrec
from sessionrec_jax.model.sequence_encoder import Noise
from sessionrec_jax.model.sessionrec import Inputs, Params, Side, Spec
from sessionrec_jax.partition import make_mesh, put_batch, put_replicated, replicated
from sessionrec_jax.progress import Bar
from sessionrec_jax.runfolder import MetricsLog, claim

_INIT_STREAM, _STEPS_STREAM = 0, 1
_NEGATIVES_OF_STEP, _DROPOUT_OF_STEP = 0, 1


class State(NamedTuple):
    """All that a step changes."""

    step: jax.Array
    params: Params
    optimizer: Any


@dataclass
class Counters:
    """What the run has seen so far."""

    target_sessions: int = 0
    """Target slots."""
    target_items: int = 0
    """Clicked items of target sessions: the terms of the retrieval loss."""
    sessions: int = 0
    """Packed sessions, history included, as are the next three."""
    items: int = 0
    session_slots: int = 0
    item_slots: int = 0
    wall_seconds: float = 0.0

    def add(self, batch: Batch) -> None:
        self.target_sessions += batch.target_sessions
        self.sessions += int(np.count_nonzero(batch.user_of_session_GRL))
        self.items += int(np.count_nonzero(batch.item_GT))
        self.session_slots += batch.user_of_session_GRL.size
        self.item_slots += batch.item_GT.size

    def speed(self, seconds: float) -> dict[str, float]:
        return {
            "sessions_per_second": self.sessions / max(seconds, 1e-9),
            "item_slots_padding": 1 - self.items / max(self.item_slots, 1),
            "session_slots_padding": 1 - self.sessions / max(self.session_slots, 1),
        }


class Trained(NamedTuple):
    """A finished run, ready to be evaluated."""

    params: Params
    spec: Spec
    catalogue: Catalogue
    mesh: jax.sharding.Mesh
    shape: Shape
    steps: int
    target_slots: int
    """Targets of one epoch: sessions, or items of an item-level paradigm."""
    counters: Counters


class Diverged(RuntimeError):
    """The loss stopped being a number."""

    def __init__(self, step: int):
        super().__init__(f"the loss is not a number at step {step}; lower --optim.learning-rate-peak")
        self.step = step


# --- the step ------------------------------------------------------------------------------------------------------


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


# --- the run -------------------------------------------------------------------------------------------------------


def resolve(config: Config, prepared: Prepared) -> Config:
    """`config` with what the prepared log decides filled in. Raises InputError where they do not fit."""
    check(config)
    if config.data.fingerprint not in ("", prepared.fingerprint):
        raise InputError(
            f"{prepared.path} has the fingerprint {prepared.fingerprint}, the run was configured for "
            f"{config.data.fingerprint}: the log was prepared anew. Start a new run folder."
        )
    train_users(config, prepared)  # refuses more users than there are, before a sweep begins
    items = config.data.items_per_row or _items_per_row(config, prepared)
    return replace(
        config,
        {
            "data.path": str(prepared.path.resolve()),
            "data.fingerprint": prepared.fingerprint,
            "data.items_per_row": items,
        },
    )


def _items_per_row(config: Config, prepared: Prepared) -> int:
    slots = config.data.sessions_per_row
    if config.paradigm != "nspp":
        return slots  # one item each
    log = prepared.arrays()
    is_first_S = np.zeros(len(log.session_items_S) + 1, bool)
    is_first_S[log.user_session_offsets_U1] = True
    neighbours_S = (log.session_items_S[1:] + log.session_items_S[:-1])[~is_first_S[1:-1]]  # they must fit together
    fitting = math.ceil(slots * prepared.manifest["items_per_session_mean"] * 1.06 / 8) * 8
    return max(fitting, int(neighbours_S.max(initial=0)))


def spec_of(config: Config, prepared: Prepared, catalogue: Catalogue) -> Spec:
    return Spec(
        config.model,
        catalogue.items + 1,
        tuple(catalogue.side_values.items()),
        len(prepared.feedback_names),
        config.data.sessions_per_row,
        prepared.manifest["max_session_items"] if config.paradigm == "nspp" else 1,
    )


def train(config: Config, prepared: Prepared, run_dir: Path, *, quiet: bool = False) -> Trained:
    """Trains `config` (resolved) in `run_dir`, or goes on from its newest checkpoint. Raises Diverged."""
    claim(run_dir, config)
    mesh = make_mesh(config.mesh)
    shape = shape_of(config, mesh.size)
    catalogue = train_catalogue(config, prepared)
    spec = spec_of(config, prepared, catalogue)
    batches = train_batches(config, prepared, shape)
    steps = len(batches)
    step_fn = make_step(spec, config.loss, _without_schedule(config.optim), mesh)

    side, negatives = put_replicated((catalogue.side, proposal(config.loss, catalogue)), mesh)
    key = jax.device_put(jax.random.fold_in(jax.random.key(config.train.seed), _STEPS_STREAM), replicated(mesh))
    state = initial_state(config, spec, catalogue, mesh)
    target_slots = batches.packer.cut.target_sessions
    prior = config.optim.table_prior / (2 * target_slots)
    counters = Counters()
    with Checkpoints(run_dir / "checkpoints") as checkpoints:
        if (found := checkpoints.restore(state)) is not None:
            state, progress = found
            batches.set_state(progress["data"])
            counters = Counters(**progress["counters"])
        first = int(state.step)
        log = MetricsLog(run_dir / "metrics.jsonl", first, config.train.log_every_steps)
        clock = _Clock(counters.wall_seconds, config.train.checkpoint_every_seconds)
        unread: tuple[int, float, Sums] | None = None
        with Bar("train", steps, first, quiet=quiet) as bar, jax.transfer_guard("disallow"):
            for step in range(first, steps):
                if clock.checkpoint_is_due():
                    unread = _read(unread, log, counters, clock)
                    checkpoints.save(step, state, _progress(batches, counters, clock))
                batch = next(batches)
                rate = optim.learning_rate(config.optim, step, steps)
                scalars = put_replicated(Scalars(np.float32(rate), np.float32(prior)), mesh)
                state, sums = step_fn(state, *put_batch(batch, mesh), side, negatives, key, scalars)
                _read(unread, log, counters, clock)  # the step before, while this one runs
                unread = (step, rate, sums)
                counters.add(batch)
                bar.advance(log.note)
            _read(unread, log, counters, clock)
        log.close()
        checkpoints.save(steps, state, _progress(batches, counters, clock))
    counters.wall_seconds = clock.seconds()
    return Trained(state.params, spec, catalogue, mesh, shape, steps, target_slots, counters)


def _without_schedule(config: Optim) -> Optim:
    """The part of the optimizer that is compiled; the rate comes as an argument."""
    return dataclasses.replace(config, learning_rate_peak=1.0, warmup_fraction=0.0, table_prior=0.0)


def _read(unread: tuple[int, float, Sums] | None, log: MetricsLog, counters: Counters, clock: _Clock) -> None:
    """Takes a step's sums from the device and logs them. Raises Diverged where they are not numbers."""
    if unread is None:
        return
    step, rate, sums = unread
    values = tuple(float(value) for value in jax.device_get(sums))
    if not all(map(math.isfinite, values)):
        raise Diverged(step)
    counters.target_items += int(values[1])
    log.add(step, rate, values, counters.speed(clock.seconds()))


def _progress(batches: Batches, counters: Counters, clock: _Clock) -> dict[str, Any]:
    counters.wall_seconds = clock.seconds()
    return {"data": batches.get_state(), "counters": dataclasses.asdict(counters)}


class _Clock:
    """Wall seconds of the run over all its lives, and when the next checkpoint is due."""

    def __init__(self, seconds_before: float, checkpoint_every_seconds: float):
        self._zero = time.monotonic() - seconds_before
        self._every, self._saved = checkpoint_every_seconds, time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self._zero

    def checkpoint_is_due(self) -> bool:
        if time.monotonic() - self._saved < self._every:
            return False
        self._saved = time.monotonic()
        return True
