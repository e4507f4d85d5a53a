"""Every family of encoders, losses and paradigms in a whole step: the same on eight devices as on one; and next-session
prediction on sessions of one item is next-item prediction."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest
from onestep import OneStep, assert_same_step, by_name

from sessionrec_jax.config.values import replace
from sessionrec_jax.data.codes import TEST
from sessionrec_jax.data.preparation.prepare import Settings, prepare
from sessionrec_jax.data.resolve import resolve
from sessionrec_jax.data.sources import synthetic
from sessionrec_jax.evaluation.measure import evaluate
from sessionrec_jax.training.loop import train

VARIANTS = {
    "hstu with dropout, pairwise": {
        "model.sequence_encoder": "hstu", "model.dropout": 0.3, "loss.rank": "pairwise",
        "model.session_encoder": "attention",
    },
    "rotary swiglu, in-batch, listwise": {
        "model.positions": "rotary", "model.mlp": "swiglu", "loss.negatives_from": "in_batch",
        "loss.rank": "listwise", "model.session_encoder": "transformer",
    },
    "gru on items, full softmax": {
        "paradigm": "nipp_plus", "model.sequence_encoder": "gru", "loss.retrieval": "full_softmax",
        "model.session_encoder": "sum", "data.sessions_per_row": 48,
    },
    "clicks alone, NCE, cosine": {
        "paradigm": "nipp", "loss.alpha": 0.0, "loss.retrieval": "bce", "model.score": "cosine",
        "model.temperature": 0.1, "model.temperature_learned": True, "model.session_encoder": "max",
    },
    "short windows, no ignored input, IDs dropped": {
        "data.window": 4, "model.ignored_in_input": False, "model.id_dropout": 0.3, "model.scored_by": ("category",),
        "model.positions": "relative_time",
        "loss.other_clicks": "masked", "loss.negatives_from": "log_uniform",
    },
}  # fmt: skip


@pytest.mark.slow  # test_train.py has the step of the small configuration
@pytest.mark.parametrize("name", VARIANTS)
def test_eight_devices_take_the_step_of_one(config, log, name):
    config = resolve(replace(config, VARIANTS[name] | {"data.items_per_row": 0}), log)
    one, eight = (OneStep(config, log, devices) for devices in (1, 8))
    assert one.sums.clicked_items > 10
    assert eight.batch.item_GT.shape[0] == 8
    assert_same_step(one, eight)


@pytest.fixture(scope="module")
def one_click_sessions(tmp_path_factory):
    """The first click of every session of a synthetic log that has one, and nothing else; histories fit a row."""
    raw = synthetic.read(synthetic.Options(users=150, base=4, depth=3, sessions_mean=6.0, sessions_max=14, seed=5))
    clicks = raw.exposures.filter(pl.col("clicked")).unique(
        ["user_id", "session_id"], keep="first", maintain_order=True
    )
    raw = dataclasses.replace(raw, exposures=clicks.with_columns(feedback=None), truth=None)
    return prepare(raw, tmp_path_factory.mktemp("data") / "log", Settings(split="leave_one_session_out"))


@pytest.mark.slow
def test_on_sessions_of_one_clicked_item_next_session_is_next_item(config, one_click_sessions, tmp_path):
    trained = {}
    for paradigm in ("nspp", "nipp"):
        changed = {"paradigm": paradigm, "loss.alpha": 0.0, "data.fingerprint": "", "data.items_per_row": 16}
        its = resolve(replace(config, changed | {"train.epochs": 2.0}), one_click_sessions)
        run = train(its, one_click_sessions, tmp_path / paradigm, quiet=True)
        trained[paradigm] = run, evaluate(run, TEST)
    (session, of_session), (item, of_item) = trained.values()
    assert session.step > 5
    leaves, others = by_name(session.params), by_name(item.params)
    assert leaves.keys() == others.keys()
    assert all(np.array_equal(others[name], leaf) for name, leaf in leaves.items())
    assert of_session["loss_nats_per_item"] != of_session["loss_baseline_nats_per_item"]  # it has learnt something
    for name, value in of_session.items():
        assert of_item[name] == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value), name
