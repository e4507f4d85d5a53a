"""An exported model over real HTTP on the loopback address: answers, limits, refusals, many clients, SIGTERM."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from test_export import SMALL, untrained

from doors.state import checksums
from experiments.__main__ import main
from experiments.service.micro_batches import Busy, MicroBatches, Size
from sessionrec_jax.serving.export import MODEL, PROGRAM, export
from sessionrec_jax.serving.exported import ExportedModel

BATCH, BODY_BYTES, EXPOSURES = 6, 5_000, 40


@pytest.fixture(scope="module")
def folder(log, tmp_path_factory):
    """An exported model that reads time."""
    to = tmp_path_factory.mktemp("exported") / "MODEL"
    export(untrained(log, SMALL | {"model.sequence_encoder": "hstu"}), None, to, k=10)
    return to


def start(folder, *argv) -> tuple[subprocess.Popen[str], int]:
    """Starts the service at a free port; returns its process and the port, once it listens."""
    command = [sys.executable, "-m", "experiments", "serve", str(folder), "--port", "0", *argv]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if found := re.search(r"listening at http://127\.0\.0\.1:(\d+)", line):
            return process, int(found[1])
    raise AssertionError("the service ended before it listened")


@pytest.fixture(scope="module")
def port(folder):
    sizes = ("--batch", str(BATCH), "--body-bytes", str(BODY_BYTES), "--exposures", str(EXPOSURES))
    process, port = start(folder, *sizes)
    reader = threading.Thread(target=process.stderr.read, daemon=True)
    reader.start()
    yield port
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == -signal.SIGTERM
    reader.join()
    process.stderr.close()


def ask(port, body, method="POST", path="/recommend") -> tuple[int, dict]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request(method, path, body if isinstance(body, bytes | None) else json.dumps(body))
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def user_of(number: int, log, **more) -> dict:
    """A history that depends on `number`."""
    ids, rng = log.item_ids().to_list(), np.random.default_rng(number)
    items = [[ids[int(item)] for item in rng.integers(0, len(ids), 3)] for _ in range(1 + number % 4)]
    sessions = [[{"item": item, "clicked": bool(place)} for place, item in enumerate(session)] for session in items]
    times = [1_700_000_000 + 90_000 * place for place in range(len(sessions))]
    return {"user": f"user {number}", "sessions": sessions, "times": times, **more}


def same(answer, wanted) -> None:
    """Batches of another size may round the last digit otherwise."""
    scores, wanted_scores = answer.pop("scores"), wanted.pop("scores")
    assert answer == wanted
    np.testing.assert_allclose(scores, wanted_scores, atol=3e-6)


def test_health(port):
    status, found = ask(port, None, "GET", "/health")
    assert (status, found["status"], found["k"]) == (200, "ok", 10)


@pytest.mark.parametrize("seen", ["kept", "masked"])
def test_many_clients_at_once_get_the_answers_of_recommend(port, folder, log, seen):
    users = [user_of(number, log) for number in range(40)]
    wanted = ExportedModel.read(folder).recommend(users, 7, seen)
    with ThreadPoolExecutor(12) as clients:
        found = list(clients.map(lambda user: ask(port, user | {"k": 7, "seen": seen}), users))
    assert {status for status, _ in found} == {200}
    for (_, answer), expected in zip(found, wanted, strict=True):
        same(answer, expected)


def test_unknown_items_are_counted_and_an_unknown_history_gets_the_popular_items(port, log):
    unknown = [{"item": "never seen", "clicked": True}]
    known = user_of(3, log)
    _, plain = ask(port, known)
    with_unknown = {"sessions": [unknown, *known["sessions"]], "times": [1_600_000_000, *known["times"]]}
    status, answer = ask(port, known | with_unknown)
    assert (status, answer["unknown_items"]) == (200, 1)
    same(answer | {"unknown_items": 0}, plain)
    _, answer = ask(port, {"user": 1, "sessions": [unknown], "times": [1_600_000_000]})
    assert (answer["fallback"], len(answer["items"])) == ("popularity", 10)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "the body is no valid JSON"),
        (b'{"user": NaN, "sessions": []}', 400, "NaN is not a JSON number"),
        (b"[" * 4_000, 400, "the body is no valid JSON"),
        (b"\xff", 400, "the body is no valid JSON"),
        ([1], 400, "expected one with user and sessions"),
        ({"user": 1}, 400, "the request lacks 'sessions'"),
        (
            {"user": 1, "sessions": [], "page": 2},
            400,
            "the request has 'page', which nothing reads; known: k, seen, sessions, times, user",
        ),
        ({"user": 1, "sessions": [], "sen": 2}, 400, "did you mean 'seen'?"),
        ({"user": 1, "sessions": [[]]}, 400, "the request lacks 'times', but this model reads the time"),
        ({"user": 1, "sessions": [], "k": 11}, 400, "k is 11; expected a whole number from 1 to 10"),
        ({"user": 1, "sessions": [], "k": True}, 400, "k is True; expected a whole number"),
        ({"user": 1, "sessions": [], "seen": ["kept"]}, 400, "seen is ['kept']; expected kept or masked"),
        ({"user": "u" * BODY_BYTES, "sessions": []}, 413, "the body has more than 5,000 bytes"),
        (
            {"user": 1, "sessions": [[{"item": 1, "clicked": True}] * 41], "times": [1_600_000_000]},
            413,
            "the history has 41 exposures; send the newest, 40 at most",
        ),
    ],
)
def test_bad_requests_are_refused_and_the_service_goes_on(port, body, status, message):
    found, answer = ask(port, body)
    assert found == status
    assert message in answer["error"]
    assert ask(port, None, "GET", "/health")[0] == 200


def test_other_paths_and_methods_are_refused_in_json(port):
    assert ask(port, None, "GET")[0] == 405
    assert ask(port, {}, path="/recommendations") == (404, {"error": "Not Found"})


def test_a_client_that_goes_away_harms_nobody(port, log):
    with socket.create_connection(("127.0.0.1", port)) as gone:
        gone.sendall(b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Length: 4000\r\n\r\n{")
    assert ask(port, user_of(1, log))[0] == 200


def test_sigterm_answers_what_was_accepted(folder, log):
    """The first history waits for others for two seconds; the signal arrives before it is answered."""
    process, port = start(folder, "--batch", "2", "--wait-ms", "2000")
    with ThreadPoolExecutor(1) as client:
        pending = client.submit(ask, port, user_of(2, log))
        while not pending.running():
            pass
        threading.Event().wait(0.5)
        process.send_signal(signal.SIGTERM)
        status, answer = pending.result()
    assert (status, answer["user"]) == (200, "user 2")
    assert process.wait(60) == -signal.SIGTERM
    process.stderr.close()


def test_a_process_of_several_that_dies_is_replaced_and_sigterm_ends_all(folder, log):
    process, port = start(folder, "--processes", "2", "--batch", "1")
    wanted = ExportedModel.read(folder).recommend([user_of(1, log)], 10)
    first = children_of(process.pid)
    assert len(first) >= 2  # and the tracker of Python's multiprocessing
    same(ask(port, user_of(1, log))[1], dict(wanted[0]))
    for line in process.stderr:  # both listen
        if "listening at" in line:
            break
    serving = [pid for pid in first if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]
    assert len(serving) == 2
    os.kill(serving[0], signal.SIGKILL)
    assert any("listening at" in line for line in process.stderr)  # the new one
    same(ask(port, user_of(1, log))[1], dict(wanted[0]))
    left = children_of(process.pid)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == -signal.SIGTERM
    process.stderr.close()
    assert serving[1] in left
    assert not any(Path(f"/proc/{pid}").exists() for pid in left if pid in serving)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
def test_processes_that_cannot_start_end_the_service(folder, tmp_path):
    """The checksum of the program is right, and the program is not one."""
    broken = tmp_path / "MODEL"
    shutil.copytree(folder, broken)
    (broken / PROGRAM).write_bytes(b"")
    facts = json.loads((broken / MODEL).read_text())
    facts["files"] = checksums(broken, without=MODEL)
    (broken / MODEL).write_text(json.dumps(facts))
    serve = [sys.executable, "-m", "experiments", "serve", str(broken), "--port", "0", "--processes", "2"]
    ended = subprocess.run(serve, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 1
    assert "failed to start" in ended.stderr


def test_a_port_that_is_taken_and_a_folder_of_something_else_are_refused(folder, tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", str(folder), "--port", port]) == 2
        assert f"--port {port}: Address already in use; name another" in capsys.readouterr().err
    assert main(["serve", str(tmp_path), "--port", "0"]) == 2
    assert "is not an exported model" in capsys.readouterr().err
    assert main(["serve", str(folder), "--host", "no such host"]) == 2
    assert "name another address or port" in capsys.readouterr().err


# --- micro-batches -------------------------------------------------------------------------------------------------


class Recording:
    """A model that records the number of histories of each batch, and answers with each one's number of sessions."""

    def __init__(self):
        self.sizes = []

    def call(self, batch):
        self.sizes.append(int((batch.sessions_GB > 0).sum()))
        if (batch.sessions_GB == 99).any():
            raise RuntimeError("the device is gone")
        item_BK = batch.sessions_GB[:, None]
        return item_BK, np.zeros(item_BK.shape, np.float32)


def one(sessions: int):
    """A batch of one place."""
    from sessionrec_jax.serving.batch import HistoryBatch

    row = np.zeros((1, 4), np.int32)
    pairs = (np.ones(1, np.int32), np.zeros(1, np.int32))
    return HistoryBatch(row, row, row, np.full(1, sessions, np.int32), row, {}, pairs)


def answers(size: Size, sessions: list[int]):
    model = Recording()

    async def run():
        batches = MicroBatches(model, size)
        asked = [asyncio.create_task(batches.best(one(number))) for number in sessions]
        await asyncio.sleep(0)
        task = asyncio.create_task(batches.run())
        found = await asyncio.gather(*asked, return_exceptions=True)
        task.cancel()
        return found

    return asyncio.run(run()), model.sizes


def test_histories_that_wait_together_are_answered_together():
    found, sizes = answers(Size(most=4, wait_seconds=0.01, waiting=100, exposures=8), list(range(1, 11)))
    assert [int(best[0][0]) for best in found] == list(range(1, 11))
    assert sizes == [4, 4, 2]
    assert Size(20, 0, 1, 1).places == [1, 4, 16, 20]
    assert Size(1, 0, 1, 1).places == [1]


def test_too_many_histories_are_refused_and_a_failure_reaches_its_batch_alone():
    found, sizes = answers(Size(most=2, wait_seconds=0.01, waiting=4, exposures=8), [1, 99, 3, 4, 5, 6])
    assert [type(best) for best in found] == [RuntimeError, RuntimeError, tuple, tuple, Busy, Busy]
    assert sizes == [2, 2]
