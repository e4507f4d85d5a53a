"""Tests that a message about two runs names exactly the settings in which they differ."""

from __future__ import annotations

import pytest

from sessionrec_jax.config.differences import differences
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace


def of(*overrides: dict) -> list[Config]:
    return [replace(Config(), values) for values in overrides]


@pytest.mark.parametrize(
    ("there", "here", "message"),
    [
        ([{}], [{"train.seed": 1}], "--train.seed is 0 there and 1 here"),
        ([{}], [{"train.seed": 1, "train.microbatches": 4}], "--train.seed is 0 there and 1 here"),
        (
            [{"data.path": "A", "data.fingerprint": "a1", "data.items_per_row": 64}],
            [{"data.path": "B", "data.fingerprint": "b2", "data.items_per_row": 32}],
            "the log is A (fingerprint a1) there and B (b2) here",
        ),
        (
            [{"data.rows": 8, "data.rows_auto": True, "data.users": 9}],
            [{"data.rows": 4, "data.rows_auto": True}],
            "--data.users is 9 there and 0 here",
        ),
        ([{"data.items_per_row": 64}], [{"data.items_per_row": 32}], "--data.items-per-row is 64 there and 32 here"),
        (
            [{"data.users": users} for users in (500, 1000)],
            [{"data.users": users} for users in (2000, 1000, 500)],
            "--data.users is 500 1000 there and 500 1000 2000 here",
        ),
        (
            [{"data.users": users} for users in range(1, 8)],
            [{}],
            "--data.users is 1 2 3 4 5 6 ... (7 values) there and 0 here",
        ),
        (
            [{"train.seed": 1, "model.width": 8}, {"train.seed": 2, "model.width": 16}],
            [{"train.seed": 2, "model.width": 8}, {"train.seed": 1, "model.width": 16}],
            "each setting has the same values, in other combinations",
        ),
    ],
)
def test_the_settings_that_differ_are_named_with_both_values(there, here, message):
    assert differences(of(*there), of(*here)) == message


def test_many_differences_end_in_a_count():
    many = {"train.seed": 1, "model.width": 8, "model.layers": 1, "model.heads": 1, "data.users": 9, "data.rows": 3}
    said = differences(of({}), of(many))
    assert said.count(" there and ") == 4
    assert said.endswith("; and 2 more differ")
