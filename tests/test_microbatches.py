"""A batch computed in microbatches takes the step of the whole batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from onestep import OneStep, assert_same_step, by_name

from sessionrec_jax.config.rules import check
from sessionrec_jax.config.values import replace, run_id
from sessionrec_jax.data.batches import shape_of
from sessionrec_jax.errors import InputError
from sessionrec_jax.training.step import _over_microbatches

FEW = {"loss.negatives": 8, "model.score": "cosine", "model.layers": 1, "model.width": 16, "model.id_width": 8}
CASES = {
    "sampled": {"model.dropout": 0.1, "optim.table_prior": 1.0},
    "pairwise, in batch": {"loss.rank": "pairwise", "loss.negatives_from": "in_batch"},
    "listwise, full": {"loss.rank": "listwise", "loss.retrieval": "full_softmax"},
    "sparse": {"optim.table_update": "sparse", "optim.table_prior": 1.0},
}


def test_a_function_of_microbatches_is_that_of_the_whole_batch():
    """The gradients of every shard, in the order of the shards, and the sums of all."""
    x_GT, y_G = jnp.asarray(np.random.default_rng(0).normal(size=(8, 5))), jnp.arange(8.0)

    def function(x_GT, y_G):
        return {"shard": x_GT * y_G[:, None]}, {"all": jnp.sum(x_GT * y_G[:, None]), "count": len(y_G) * jnp.ones(3)}

    whole = function(x_GT, y_G)
    for microbatches in (1, 2, 4, 8):
        cut = _over_microbatches(function, (x_GT, y_G), microbatches)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), cut, whole)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_microbatches_take_the_step_of_the_whole_batch(config, log, name):
    config = replace(config, FEW | CASES[name])
    whole, cut = (
        OneStep(config, log, 1),
        OneStep(replace(config, {"train.microbatches": 4}), log, {"data": 2, "model": 2}),
    )
    assert_same_step(whole, cut, 1e-4)
    assert any((leaf != 0).any() for leaf in by_name(whole.state.optimizer).values())


def test_a_run_in_microbatches_is_the_same_run(config):
    assert run_id(replace(config, {"train.microbatches": 4})) == run_id(config)


def test_rows_that_do_not_spread_are_refused(config):
    with pytest.raises(InputError, match=r"16 does not spread over 2 devices in 3 microbatches; use .* such as 18"):
        shape_of(replace(config, {"data.rows": 16, "train.microbatches": 3}), 2)
    with pytest.raises(InputError, match=r"--train.microbatches is 0; wanted 1 to"):
        check(replace(config, {"train.microbatches": 0}))
