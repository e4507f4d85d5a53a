"""Counts of the sessions that a run with --data.fresh sampled draws: what the best learner could count in them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from sessionrec_jax.config.settings import Config
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.data.synthetic.device import Draw, ProcessTables, draw, process_tables
from sessionrec_jax.data.synthetic.known import dense_ids, known_truth, published_ids
from sessionrec_jax.errors import InputError
from sessionrec_jax.training.fresh_step import sessions_key
from sessionrec_jax.training.step import root_key

_ROWS_AT_ONCE = 4_096
"""Rows that are drawn in one pass, so that steps of few rows are counted fast too."""

Counts = tuple[Int[Array, "V C"], Int[Array, "V C"]]
"""Exposures that the sessions after each anchor (dense id) show of each category, and the clicks among them."""


def counting_excess(config: Config, log: Prepared, steps: Sequence[int]) -> list[float]:
    """Returns the excess rank loss (nats an exposure) of the Bayes learner after each number of steps, in ascending
    order. It counts the very sessions that the run of `config` draws (`Truth.bayes_excess_of_counts`).

    Raises InputError for a log that no known process made.
    """
    truth = known_truth(log)
    if truth is None:
        raise InputError(f"{log.path} was not made by a known process")
    items = truth.process.item_count
    tables = process_tables(truth, dense_ids(log, items))
    how = Draw(truth.process, rows=config.data.rows, history=config.data.slots - 1, labels="sampled")
    is_item_V = (published_V := published_ids(log)) >= 0
    found = []
    for counts in _counts(tables, how, config.train.seed, len(published_V), steps):
        of_item = [np.zeros(truth.coin_ZC.shape, np.int64) for _ in counts]
        for of_item_ZC, of_dense_VC in zip(of_item, counts, strict=True):
            of_item_ZC[published_V[is_item_V]] = np.asarray(of_dense_VC)[is_item_V]
        found.append(truth.bayes_excess_of_counts(*of_item))
    return found


def _counts(tables: ProcessTables, how: Draw, seed: int, rows: int, steps: Sequence[int]) -> Iterator[Counts]:
    """Yields the counts after each number of steps."""
    zeros_VC = jnp.zeros((rows, how.process.categories), jnp.int32)
    counts, done, key = (zeros_VC, zeros_VC), 0, root_key(seed)
    for end in steps:
        counts, done = _count(tables, key, counts, done, end, how=how), end
        yield counts


@functools.partial(jax.jit, static_argnames="how")
def _count(
    tables: ProcessTables, key: Array, counts: Counts, first: int | Array, end: int | Array, *, how: Draw
) -> Counts:
    """Adds the counts of the steps from `first` up to `end`."""

    at_once = max(1, _ROWS_AT_ONCE // how.rows)

    def body(part: Array, counts: Counts) -> Counts:
        step_N = first + part * at_once + jnp.arange(at_once)
        key_N = jax.vmap(lambda step: sessions_key(jax.random.fold_in(key, step)))(step_N)
        sessions = jax.vmap(functools.partial(draw, tables, how=how))(key_N)
        is_taken_N = (step_N < end).astype(jnp.int32).reshape(-1, 1, 1, 1)
        shown_VC, clicked_VC = counts
        return (
            shown_VC.at[sessions.anchor_BL].add(sessions.exposures_BLC.astype(jnp.int32) * is_taken_N),
            clicked_VC.at[sessions.anchor_BL].add(sessions.clicks_BLC.astype(jnp.int32) * is_taken_N),
        )

    parts = (end - first + at_once - 1) // at_once
    return jax.lax.fori_loop(0, parts, body, counts)
