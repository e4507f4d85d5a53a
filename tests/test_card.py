"""Tests the card of a prepared log: its distributions are those of the log, and its page needs no other file."""

from __future__ import annotations

import numpy as np
import pytest

from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.batches import shape_of, train_batches
from sessionrec_jax.data.preparation import card
from sessionrec_jax.data.preparation.prepare import Settings, prepare
from sessionrec_jax.data.resolve import resolve
from sessionrec_jax.data.sources import synthetic

DRAWN = card.drawn  # conftest.py replaces it later


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    raw = synthetic.read(synthetic.Options(users=300, base=4, depth=3, seed=5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(card, "drawn", DRAWN)
        return prepare(raw, tmp_path_factory.mktemp("data") / "log", Settings())


def test_distributions_are_those_of_the_log(prepared):
    facts, log = prepared.card(), prepared.arrays()
    assert {name: facts[name] for name in prepared.manifest} == prepared.manifest
    found = facts["distributions"]
    for name, columns, values in (
        ("sessions_per_user", ("sessions", "users"), np.diff(log.user_session_offsets_U1)),
        ("items_per_session", ("items", "sessions"), log.session_items_S),
    ):
        value, count = np.unique(values, return_counts=True)
        assert found[name] == {columns[0]: value.tolist(), columns[1]: count.tolist()}
    popularity = found["popularity"]
    assert popularity["rank"] == list(range(1, 65)), "few items: every rank"
    assert popularity["clicks"] == sorted(prepared.clicks_V[1:].tolist(), reverse=True)
    assert popularity["exposures"] == sorted(prepared.exposures_V[1:].tolist(), reverse=True)


def test_padding_is_that_of_training_batches(prepared):
    config = resolve(replace(Config(), {"train.epochs": 1.0, "data.path": str(prepared.path)}), prepared)
    counts = [batch.counts() for batch in list(train_batches(config, prepared, shape_of(config, 1)))[:-1]]
    waste = np.mean([(1 - c.items / c.item_slots, 1 - c.sessions / c.session_slots) for c in counts], axis=0)
    padding = prepared.card()["padding"]
    assert [padding["item_slots"], padding["session_slots"]] == pytest.approx(waste, abs=0.02)


def test_the_page_needs_no_network(prepared):
    page = (prepared.path / "card.html").read_text()
    assert prepared.fingerprint in page
    assert "<script" not in page
    assert page.count("<svg") == 1
    assert "Sessions a user" in page
