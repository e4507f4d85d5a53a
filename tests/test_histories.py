"""Tests histories read from JSON lines and from the log; a malformed line is named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from contract import record_of

from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace
from sessionrec_jax.errors import InputError
from sessionrec_jax.serving.histories import log_histories, read_histories
from sessionrec_jax.serving.vocabulary import Vocabulary

GOOD = {"item": 37, "clicked": True}


def written(path, lines):
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def test_sessions_and_their_times_are_stored_as_given(log, tmp_path):
    ids, unknown = log.item_ids().to_list(), {"item": "never seen", "clicked": False}
    shown = [{"item": ids[4], "clicked": False}, {"item": str(ids[0]), "clicked": None, "feedback": "anchor"}]
    lines = [
        {"user": "a", "sessions": [[unknown], shown, [unknown, GOOD | {"item": ids[2]}]], "times": [9e8, 1e9, 1e9]},
        {"user": None, "sessions": [[], [unknown]]},
        {"user": 3, "sessions": [shown]},
    ]
    histories = read_histories(written(tmp_path / "users.jsonl", lines), Vocabulary.of_log(log, Config()))
    read = histories.log
    assert histories.users == ["a", None, 3]
    assert histories.unknown_items_U.tolist() == [2, 1, 0]
    assert read.item_N.tolist() == [5, 1, 3, 5, 1]
    assert read.feedback_N.tolist() == [0, 2, 1, 0, 2]
    assert read.session_items_S.tolist() == [2, 1, 2]
    assert read.session_seconds_S.tolist() == [1_000_000_000, 1_000_000_000, 0]
    assert read.user_session_offsets_U1.tolist() == [0, 2, 2, 3]


def test_the_first_users_of_the_log_are_a_log(log):
    whole, part = log.arrays(), log_histories(log, 7).log
    for user in range(7):
        for name, values in record_of(part, user).items():
            np.testing.assert_array_equal(values, record_of(whole, user)[name])
    assert len(part.item_N) == part.user_item_offsets_U1[-1] < len(whole.item_N)


def test_only_a_model_that_reads_time_wants_times(log, tmp_path):
    path, line = tmp_path / "users.jsonl", {"user": 1, "sessions": [[GOOD], [GOOD]]}
    hstu = replace(Config(), {"model.sequence_encoder": "hstu"})
    without_time = replace(hstu, {"model.positions": "rotary"})
    for config in (Config(), without_time):
        assert not read_histories(written(path, [line]), Vocabulary.of_log(log, config)).log.session_seconds_S.any()
    with pytest.raises(InputError, match=r"line 1 lacks 'times', but this model reads the time between sessions"):
        read_histories(path, Vocabulary.of_log(log, hstu))
    timed = read_histories(written(path, [line | {"times": [10**9, 10**9 + 60]}]), Vocabulary.of_log(log, hstu))
    assert timed.log.session_seconds_S.tolist() == [10**9, 10**9 + 60]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not valid JSON"),
        ("user,item,clicked", "expected one JSON object a line, for each user, such as {"),
        ('{"user": NaN, "sessions": []}', "NaN is not a JSON number"),
        ("[1]", "expected an object with sessions, user"),
        ({"sessions": []}, "lacks 'user'; expected an object with sessions, user"),
        ({"usr": 7, "sessions": []}, "has 'usr', which nothing reads; did you mean 'user'"),
        ({"user": 1, "sesions": []}, "has 'sesions', which nothing reads; did you mean 'sessions'"),
        ({"user": 1, "sessions": [GOOD]}, "a list of sessions, each a list"),
        ({"user": 1, "sessions": [[GOOD], [37]]}, "session 2: expected an object with clicked, item"),
        ({"user": 1, "sessions": [[{"item": 37}]]}, "session 1 lacks 'clicked'"),
        ({"user": 1, "sessions": [[GOOD | {"feedbck": "anchor"}]]}, "did you mean 'feedback'"),
        ({"user": 1, "sessions": [[GOOD | {"item": 1.5}]]}, "item is 1.5"),
        ({"user": 1, "sessions": [[GOOD | {"clicked": 1}]]}, "clicked is 1; expected true, false, or null"),
        ({"user": 1, "sessions": [[GOOD | {"clicked": None}]]}, "no feedback 'context' for context; known: anchor"),
        ({"user": 1, "sessions": [[GOOD | {"clicked": None, "feedback": "ancor"}]]}, "did you mean 'anchor'"),
        ({"user": 1, "sessions": [[GOOD | {"clicked": None, "feedback": 2}]]}, "feedback is 2; expected text"),
        ({"user": 1, "sessions": [[GOOD]], "time": [1]}, "did you mean 'times'"),
        ({"user": 1, "sessions": [[GOOD]], "times": 10**9}, '"times" to be a list of 1, one a session; got 1000000000'),
        ({"user": 1, "sessions": [[GOOD]], "times": None}, "got None"),
        ({"user": 1, "sessions": [[GOOD]], "times": []}, "got 0 of them"),
        ({"user": 1, "sessions": [[GOOD]], "times": [True]}, "session 1 is True; expected whole UTC seconds"),
        ({"user": 1, "sessions": [[GOOD]], "times": [1e9 + 0.5]}, "is 1000000000.5; expected whole"),
        ({"user": 1, "sessions": [[GOOD]], "times": ["2001-09-09"]}, "is '2001-09-09'; expected whole"),
        ({"user": 1, "sessions": [[GOOD]], "times": [10**12]}, "is 1000000000000; expected whole UTC seconds, from"),
        ('{"user": 1, "sessions": [[]], "times": [1e999]}', "is inf; expected whole"),
        ({"user": 1, "sessions": [[GOOD], []], "times": [10**9, 10**9 - 1]}, "session 2 begins at 999999999, before"),
    ],
)
def test_a_malformed_line_is_named(log, tmp_path, line, message):
    path = written(tmp_path / "users.jsonl", [{"user": 0, "sessions": [[GOOD]]}, line])
    with pytest.raises(InputError, match=r"users\.jsonl, line 2") as refused:
        read_histories(path, Vocabulary.of_log(log, Config()))
    assert message in str(refused.value)


def test_the_example_of_a_refusal_is_read(log, tmp_path):
    with pytest.raises(InputError) as refused:
        read_histories(written(tmp_path / "log one.csv", ["user,item,clicked"]), Vocabulary.of_log(log, Config()))
    example = str(refused.value).partition("such as ")[2]
    assert read_histories(written(tmp_path / "x.jsonl", [example]), Vocabulary.of_log(log, Config())).users == [7]


def test_refusals(log, tmp_path):
    with pytest.raises(InputError, match="has 200 users"):
        log_histories(log, 201)
    with pytest.raises(InputError, match="cannot be read"):
        read_histories(tmp_path / "missing.jsonl", Vocabulary.of_log(log, Config()))
    with pytest.raises(InputError, match="has no history"):
        read_histories(written(tmp_path / "empty.jsonl", []), Vocabulary.of_log(log, Config()))
