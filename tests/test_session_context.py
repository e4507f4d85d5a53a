"""Session context: one value for each session, vocabularies from the training part only, and the way into batches."""

from __future__ import annotations

import datetime
import json
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace
from sessionrec_jax.data import session_log, store
from sessionrec_jax.data.batches import eval_batches, shape_of, train_batches
from sessionrec_jax.data.codes import TEST
from sessionrec_jax.data.columns import session_context
from sessionrec_jax.data.preparation import card
from sessionrec_jax.data.preparation.prepare import Settings, prepare
from sessionrec_jax.data.resolve import resolve
from sessionrec_jax.data.session_context import from_start
from sessionrec_jax.data.sources import RawLog
from sessionrec_jax.errors import InputError
from sessionrec_jax.evaluation.measure import measure
from sessionrec_jax.serving.histories import read_histories
from sessionrec_jax.serving.vocabulary import Vocabulary
from sessionrec_jax.training.loop import train

START_MS, HOUR_MS = 1_650_000_000_000, 3_600_000  # a Friday, 5:20 in the morning

# The devices of each row: sessions of four users, the last but one for validation, the last for test.
DEVICES = {
    "a": ["phone phone", "tv tv", "- tv", "phone tablet"],
    "b": ["- -", "phone -", "phone phone"],
    "c": ["- tablet", "- watch", "radio tv"],
    "d": ["tv phone", "tv tv"],
}


def log_of(devices: dict[str, list[str]] = DEVICES, **columns: Any) -> RawLog:
    rows = [
        (user, 2 * session + place, START_MS + 5 * session * HOUR_MS + place, place == 1, text.replace("-", "") or None)
        for user, sessions in devices.items()
        for session, of_session in enumerate(sessions)
        for place, text in enumerate(of_session.split())
    ]
    names = ["user_id", "item_id", "timestamp_ms", "clicked", "session/device"]
    return RawLog("test", pl.DataFrame(rows, schema=names, orient="row").with_columns(**columns))


def prepared(raw: RawLog, folder, **settings: Any) -> store.Prepared:
    return prepare(raw, folder / "log", Settings(**settings))


def codes(log: store.Prepared, name: str) -> dict[str, list[int]]:
    flat, users = log.arrays(), pl.read_parquet(log.path / "users.parquet")["user_id"]
    of_user = np.split(flat.session_context[name], flat.user_session_offsets_U1[1:-1])
    return dict(sorted((user, code.tolist()) for user, code in zip(users, of_user, strict=True)))


def test_a_session_has_the_value_of_its_first_row_that_has_one_and_unseen_ones_are_out_of_vocabulary(tmp_path):
    log = prepared(log_of(), tmp_path)
    table = pl.read_parquet(log.path / "context_device.parquet")
    assert table.to_dict(as_series=False) == {"code": [1, 2, 3], "value": ["phone", "tablet", "tv"]}
    assert codes(log, "device") == {"a": [1, 3, 3, 1], "b": [0, 1, 1], "c": [2, 4, 4], "d": [3, 3]}
    assert log.manifest["session_context"] == [
        {"name": "device", "from": "log", "values": 3, "missing": 1, "out_of_vocabulary": 2, "differing": 3}
    ]
    line = card.lines(log.card())["session context"]
    assert line == "device (3 values, 1 sessions without one, 2 sessions out of vocabulary, 3 sessions with several)"


def test_held_out_sessions_change_no_vocabulary_and_the_values_of_records_are_those_that_were_met(tmp_path):
    held_out = {**DEVICES, "a": [*DEVICES["a"][:2], "abacus abacus", "zither zither"]}
    one, other = prepared(log_of(), tmp_path / "one"), prepared(log_of(held_out), tmp_path / "other")
    tables = [pl.read_parquet(log.path / "context_device.parquet") for log in (one, other)]
    assert tables[0].equals(tables[1])
    assert codes(other, "device") == {**codes(one, "device"), "a": [1, 3, 4, 4]}
    assert one.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("values", "vocabulary"),
    [
        ([3, 1, None], [1, 3]),
        ([3.0, 1.0, float("nan")], [1, 3]),
        ([True, False, None], ["false", "true"]),
        (["", "x", "y"], ["x", "y"]),
        ([None, None, None], []),
    ],
)
def test_kinds_of_columns(tmp_path, values, vocabulary):
    """The log has this column and no device."""
    users = {str(user): ["- -"] * 3 for user in range(6)}
    column = pl.Series([values[int(user) % 3] for user in users for _ in range(6)])
    log = prepared(log_of(users, **{"session/kind": column}), tmp_path)
    assert log.context_vocabulary("kind").to_list() == vocabulary
    assert log.context_vocabulary("device").to_list() == []
    assert log.context_values == {"device": 0, "kind": len(vocabulary)}


def test_a_number_with_a_fraction_is_no_category_and_breaks_the_contract(tmp_path):
    raw = log_of(**{"session/level": pl.when(pl.int_range(pl.len()) < 2).then(0.5).otherwise(1.0)})
    log = prepared(raw, tmp_path, max_rejected_fraction=0.5)
    assert log.manifest["rejected"] == {session_log.NO_CATEGORY: 2}
    with pytest.raises(InputError, match="nor text: 2, see --session-context; put numbers with fractions into buckets"):
        prepared(raw, tmp_path / "strict")


@given(st.datetimes(datetime.datetime(1990, 1, 1), datetime.datetime(2100, 1, 1), timezones=st.just(datetime.UTC)))
def test_hours_and_days_are_those_of_the_calendar(at):
    seconds_S = np.array([int(at.timestamp())])
    assert from_start("hour_of_day", seconds_S)[0] == at.hour
    assert from_start("day_of_week", seconds_S)[0] == at.isoweekday()


def test_hours_are_values_like_others(tmp_path):
    log = prepared(log_of(), tmp_path, session_time=("hour_of_day",))
    assert list(log.context_values) == ["device", "hour_of_day"]
    assert log.context_vocabulary("hour_of_day").to_list() == [5, 10]
    assert codes(log, "hour_of_day") == {"a": [1, 2, 3, 3], "b": [1, 2, 3], "c": [1, 2, 3], "d": [1, 2]}


# Into batches, and a model.

SMALL = {"data.rows": 8, "data.sessions_per_row": 8, "model.width": 16, "model.layers": 1, "mesh.data": 1}


@pytest.mark.parametrize("paradigm", ["nspp", "nipp", "nipp_plus"])
def test_every_slot_has_the_context_of_its_session(tmp_path, paradigm):
    log = prepared(log_of(), tmp_path, session_time=("day_of_week",))
    config = resolve(replace(Config(), SMALL | {"paradigm": paradigm, "loss.alpha": 0.0}), log)
    wanted, shape = log.arrays().session_context, shape_of(config, 2)
    for batches in (train_batches(config, log, shape), eval_batches(config, log, shape, TEST)):
        for batch in batches:
            packed_GRL = batch.user_of_session_GRL > 0
            assert batch.context_GRL.keys() == {"device", "day_of_week"}
            for name, code_GRL in batch.context_GRL.items():
                np.testing.assert_array_equal(code_GRL, wanted[name][batch.log_session_GRL] * packed_GRL)
                assert code_GRL.any()


def test_named_columns_are_seen_and_no_others(tmp_path):
    log = prepared(log_of(), tmp_path, session_time=("hour_of_day",))
    seen = {names: session_context(replace(Config(), {"data.session_context": names}), log) for names in CHOICES}
    assert seen == {names: {name: log.context_values[name] for name in used} for names, used in CHOICES.items()}
    with pytest.raises(InputError, match=r"--data.session-context devise: did you mean 'device'\?"):
        resolve(replace(Config(), {"data.session_context": ("devise",)}), log)
    bare = prepared(RawLog("test", log_of().exposures.drop("session/device")), tmp_path / "bare")
    with pytest.raises(InputError, match=r"--data\.session-context device: there are no such columns"):
        resolve(replace(Config(), {"data.session_context": ("device",)}), bare)


CHOICES = {(): ["device", "hour_of_day"], ("hour_of_day",): ["hour_of_day"], ("none",): []}


@pytest.mark.slow
def test_clicks_that_follow_from_the_device_alone_are_learned(tmp_path):
    """Each session clicks the device of the session before, one of three at random. Without the column no model can be
    below log 3 = 1.10 nats."""
    device = np.random.default_rng(0).integers(0, 3, (300, 6))
    rows = [
        (user, device[user, session - 1], START_MS + 5 * session * HOUR_MS, True, device[user, session])
        for user in range(300)
        for session in range(1, 6)
    ]
    names = ["user_id", "item_id", "timestamp_ms", "clicked", "session/device"]
    log = prepared(RawLog("test", pl.DataFrame(rows, schema=names, orient="row")), tmp_path)
    quick = {"train.epochs": 20.0, "loss.retrieval": "full_softmax", "loss.alpha": 0.0, "model.id_width": 8}
    config = resolve(replace(Config(), SMALL | quick), log)
    done = train(config, log, tmp_path / "run", quiet=True)
    metrics = measure(done, TEST)
    assert metrics.mean("loss_nats_per_item") < 0.1


# Histories to answer.

LINE = {"user": 1, "sessions": [[{"item": 1, "clicked": True}], [{"item": 5, "clicked": True}], []]}


def test_a_history_may_give_its_context_and_hours_follow_from_its_times(tmp_path):
    log = prepared(log_of(), tmp_path, session_time=("hour_of_day",))
    full = {"context": [{"device": "tv"}, {"device": "zither"}, {}], "times": [START_MS // 1000 + n for n in (0, 1, 2)]}
    bare = {"context": [{"device": None}, {}, {}], "times": [START_MS // 1000 + n * 15 * 3_600 for n in (0, 1, 2)]}
    (tmp_path / "users.jsonl").write_text("".join(json.dumps(LINE | more) + "\n" for more in (full, bare)))
    read = read_histories(tmp_path / "users.jsonl", Vocabulary.of_log(log, Config())).log.session_context
    assert {name: code.tolist() for name, code in read.items()} == {"device": [3, 4, 0, 0], "hour_of_day": [1, 1, 1, 3]}


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ([{}], '"context" to be a list of 3, one a session; got 1 of them'),
        ({"device": "tv"}, "one a session; got {'device': 'tv'}"),
        (["tv", {}, {}], "context of session 1: expected an object with device; got 'tv'"),
        ([{}, {"devise": 1}, {}], "context of session 2 has 'devise', which nothing reads; did you mean 'device'?"),
        ([{}, {}, {"hour_of_day": 1}], "'hour_of_day', which nothing reads; known: device"),
        ([{"device": 1.5}, {}, {}], "device is 1.5; expected an integer, text, true, false or null"),
    ],
)
def test_malformed_context_is_named(tmp_path, context, message):
    log = prepared(log_of(), tmp_path, session_time=("hour_of_day",))
    (tmp_path / "users.jsonl").write_text(json.dumps(LINE | {"times": [10**9] * 3, "context": context}))
    with pytest.raises(InputError, match="line 1") as refused:
        read_histories(tmp_path / "users.jsonl", Vocabulary.of_log(log, Config()))
    assert message in str(refused.value)
    (tmp_path / "users.jsonl").write_text(json.dumps(LINE))
    with pytest.raises(InputError, match="line 1 lacks 'times', but this model reads hour_of_day; add the start"):
        read_histories(tmp_path / "users.jsonl", Vocabulary.of_log(log, Config()))
    assert read_histories(
        tmp_path / "users.jsonl", Vocabulary.of_log(log, replace(Config(), {"data.session_context": ("device",)}))
    ).users
