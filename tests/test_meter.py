"""Watching a run: its seconds add up, compilation is separate, and a trace has the steps that were asked for."""

from __future__ import annotations

import gzip
import json
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from sessionrec_jax import row
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.batches import Batch, shape_of, train_batches
from sessionrec_jax.devices.matmul_peak import peak_flops_per_second
from sessionrec_jax.runfolder.history import Counters
from sessionrec_jax.training.loop import train
from sessionrec_jax.training.meter import Meter
from sessionrec_jax.training.profiling import Profiler

EVERY, TRACED = 4, 3


class Clock:
    """Time that passes only by `sleep`."""

    now = 100.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    return clock


def batch(items: int, sessions: int) -> Batch:
    """A batch of ten item slots and four session slots."""
    full_GT = np.arange(10, dtype=np.int32)[None] < items
    full_GRL = np.arange(4, dtype=np.int32)[None, None] < sessions
    of_items, of_sessions = full_GT.astype(np.int32), full_GRL.astype(np.int32)
    return Batch(of_items, full_GT.astype(np.int8), of_items, *[of_sessions] * 3, full_GRL, *[of_sessions] * 2)


def steps(meter: Meter, counters: Counters, clock: Clock, first: int, seconds: list[float], *, wait: float) -> None:
    """A step for each of `seconds`, `wait` of which pass at the input, as the loop makes them: read one behind."""
    for step, of_step in enumerate(seconds, first):
        with meter.input():
            clock.sleep(wait)
        with meter.dispatch():
            clock.sleep(0.0)
        if step:
            clock.sleep(of_step - wait)
            meter.done()
        counters.add(batch(items=6, sessions=3).counts())


# The numbers of a window.


def test_a_window_says_how_fast_its_own_steps_were(clock):
    counters = Counters()
    meter = Meter(counters, ())
    with meter.dispatch():
        clock.sleep(30.0)
    counters.add(batch(items=10, sessions=4).counts())
    steps(meter, counters, clock, 1, [1.0, 1.0, 2.0, 1.0], wait=0.25)
    first = meter.window()
    assert first["compile_seconds"] == 30
    assert first["items_per_second"] == pytest.approx((10 + 4 * 6) / 5)
    assert first["sessions_per_second"] == pytest.approx((4 + 4 * 3) / 5)
    assert first["item_slots_padding"] == pytest.approx(1 - 34 / 50)
    assert first["session_slots_padding"] == pytest.approx(1 - 16 / 20)
    assert first["input_wait_share"] == pytest.approx(4 * 0.25 / 5)
    assert (first["step_seconds_p50"], first["step_seconds_max"]) == (1.0, 2.0)
    assert 1.0 < first["step_seconds_p95"] < 2.0

    steps(meter, counters, clock, 5, [4.0, 4.0], wait=4.0)
    second = meter.window()
    assert second["items_per_second"] == pytest.approx(6 / 4)
    assert second["item_slots_padding"] == pytest.approx(0.4)
    assert second["input_wait_share"] == 1
    assert second["step_seconds_p50"] == second["step_seconds_max"] == 4.0
    assert second["compile_seconds"] == 30


def test_compiling_is_counted_over_all_lives_and_slows_no_speed(clock):
    counters = Counters(sessions=50, wall_seconds=40.0, compile_seconds=30.0)
    meter = Meter(counters, ())
    for seconds in (20.0, 5.0):  # the second call finds the program compiled
        with meter.dispatch():
            clock.sleep(seconds)
    assert counters.compile_seconds == 50
    counters.wall_seconds = 75.0
    assert counters.speed()["sessions_per_second"] == pytest.approx(50 / 25)


def test_device_memory_is_the_fullest_device_s_and_missing_if_none_says(clock):
    def peak(*stats):
        meter = Meter(Counters(), [SimpleNamespace(memory_stats=lambda each=each: each) for each in stats])
        meter.done()
        return meter.window()["device_memory_peak_bytes"]

    assert peak({"peak_bytes_in_use": 5}, {"peak_bytes_in_use": 9}) == 9
    assert peak({"peak_bytes_in_use": 5}, None) == 5
    assert peak({"bytes_limit": 7}, None) is None


# A whole run.


@pytest.fixture(scope="module")
def watched(config, log, tmp_path_factory):
    """(config, run folder, the counted columns of its row) of a run with a trace."""
    config = replace(config, {"train.log_every_steps": EVERY, "train.profile_steps": TRACED})
    folder = tmp_path_factory.mktemp("runs") / "watched"
    return config, folder, row._counted(train(config, log, folder, quiet=True))


def test_every_line_of_the_log_says_where_the_time_went(watched, log):
    config, folder, columns = watched
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    batches = list(train_batches(config, log, shape_of(config, 1)))
    assert [line["step"] for line in lines] == sorted({*range(EVERY - 1, len(batches), EVERY), len(batches) - 1})
    for line in lines:
        of_line = batches[line["step"] // EVERY * EVERY : line["step"] + 1]
        assert line["item_slots_padding"] == pytest.approx(
            np.mean([1 - batch.counts().items / batch.item_GT.size for batch in of_line])
        )
        assert line["session_slots_padding"] == pytest.approx(
            np.mean([1 - batch.counts().sessions / batch.target_GRL.size for batch in of_line])
        )
        items, sessions = (sum(map(np.count_nonzero, arrays)) for arrays in (
            [batch.item_GT for batch in of_line], [batch.user_of_session_GRL for batch in of_line]
        ))  # fmt: skip
        assert line["items_per_second"] / line["sessions_per_second"] == pytest.approx(items / sessions)
        assert 0 <= line["input_wait_share"] <= 1
        assert 0 < line["step_seconds_p50"] <= line["step_seconds_p95"] <= line["step_seconds_max"]
        assert line["compile_seconds"] == columns["compile_seconds"]
        assert line["device_memory_peak_bytes"] is None  # the CPU has no allocator that counts
    assert 0 < columns["compile_seconds"] < columns["wall_seconds"]


def test_utilization_is_the_run_s_rate_over_the_measured_peak(watched):
    _, _, columns = watched
    per_second = columns["flops_train"] / (columns["wall_seconds"] - columns["compile_seconds"])
    peak = columns["peak_flops_per_second_measured"]
    assert columns["model_flops_utilization"] == pytest.approx(per_second / peak)
    assert 0 < columns["model_flops_utilization"] < 1
    assert peak == peak_flops_per_second(jax.devices()[:1], "float32")
    assert columns["peak_flops_per_second_measured_bfloat16"] == peak_flops_per_second(jax.devices()[:1], "bfloat16")


def traced_steps(folder) -> list[int]:
    """The numbers of the steps whose calls are in the trace."""
    (path,) = folder.rglob("*.trace.json.gz")
    with gzip.open(path) as file:
        events = json.load(file)["traceEvents"]
    return sorted({int(event["args"]["step_num"]) for event in events if event.get("name") == "train"})


def test_a_trace_holds_the_steps_that_were_asked_for_after_the_warm_up(watched):
    _, folder, columns = watched
    assert columns["steps"] > 10 + TRACED
    assert traced_steps(folder / "profile") == list(range(10, 10 + TRACED))
    assert list((folder / "profile").rglob("*.xplane.pb"))  # what XProf and TensorBoard read


@pytest.mark.parametrize(("traced", "first", "last", "wanted"), [
    (2, 5, 9, [7, 8]),  # no room for ten steps before
    (9, 5, 9, [5, 6, 7, 8]),  # more than there are
    (0, 0, 40, []),
])  # fmt: skip
def test_a_short_loop_is_traced_as_far_as_it_goes(monkeypatch, tmp_path, traced, first, last, wanted):
    inside, seen = [], []
    monkeypatch.setattr(jax.profiler, "start_trace", inside.append)
    monkeypatch.setattr(jax.profiler, "stop_trace", inside.pop)
    with Profiler(tmp_path, traced, first, last) as profile:
        for step in range(first, last):
            profile.before(step, None)
            seen += [step] * len(inside)
    assert seen == wanted
    assert not inside


# The peak.


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_peak_is_measured_once_and_counts_devices_of_other_processes(dtype):
    here = jax.devices()
    peak = peak_flops_per_second(here, dtype)
    assert peak > 0
    assert peak_flops_per_second(here, dtype) == peak
    elsewhere = [SimpleNamespace(process_index=1)] * len(here)
    assert peak_flops_per_second([*here, *elsewhere], dtype) == 2 * peak
