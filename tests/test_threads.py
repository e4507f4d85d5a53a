"""Tests the engine of preparation on one machine: `map` with two threads."""

from __future__ import annotations

import threading

import pytest

from sessionrec_jax.data.preparation.threads import threaded


def test_two_calls_run_at_a_time_and_results_come_in_order():
    both, taken = threading.Barrier(2, timeout=10), []

    def values():
        for value in range(6):
            taken.append(value)
            yield value

    def call(value: int) -> int:
        both.wait()  # only a second call at the same time lets it end
        return value

    for result in threaded(call, values()):
        assert taken == [*range(min(result + 2, 6))]  # no value is taken before a thread is free for it
    assert result == 5


def test_what_a_call_raises_comes_out_and_ends_the_rest():
    taken = (value for value in range(9))
    with pytest.raises(ZeroDivisionError):
        list(threaded(lambda value: 1 // (value - 2), taken))
    assert list(taken) == [4, 5, 6, 7, 8]
