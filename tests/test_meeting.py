"""Processes that train together meet, name those that are missing, and learn which one is lost."""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from experiments.__main__ import main
from sessionrec_jax.devices.lifeline import Lifeline
from sessionrec_jax.devices.meeting import Meeting, Peer, Place, check_megascale, meet
from sessionrec_jax.errors import InputError


@pytest.fixture
def port():
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return asked.getsockname()[1]


def together(*places: Place, seconds: float = 5.0) -> list[Meeting | str]:
    """Returns what each process gets: its meeting, or the error."""

    def one(place: Place) -> Meeting | str:
        try:
            return meet(place, seconds)
        except InputError as error:
            return str(error)

    with ThreadPoolExecutor(len(places)) as pool:
        return list(pool.map(one, places))


def place(port: int, index: int, count: int = 3, run: str = "a") -> Place:
    return Place("127.0.0.1", [port], count, index, run)


def close(*meetings: Meeting | str) -> None:
    for meeting in meetings:
        if isinstance(meeting, Meeting):
            for peer in meeting.peers.values():
                peer.connection.close()
            if meeting.claim:
                meeting.claim.close()


def test_they_meet_in_any_order_and_process_zero_binds_to_its_own_address(port):
    met = together(place(port, 2), place(port, 0), place(port, 1))
    assert [sorted(meeting.peers) for meeting in met] == [[0], [1, 2], [0]]
    assert {meeting.coordinator for meeting in met} == {f"127.0.0.1:{port}"}
    assert met[1].bind == f"127.0.0.1:{port}"
    close(*met)


def test_the_missing_one_is_named_on_all(port):
    words = together(place(port, 0), place(port, 2), seconds=1.0)
    for said in words:
        assert "1 of 3 processes did not come" in said
        assert "missing index 1." in said
        assert "process 2 (" in said


def test_without_process_zero_the_others_say_where_they_looked(port):
    (said,) = together(place(port, 1), seconds=0.5)
    assert f"process 0 did not answer at 127.0.0.1, port {port}" in said


@pytest.mark.parametrize(
    ("stranger", "reason"),
    [
        ({"run": "b"}, "trains another run, or has other settings"),
        ({"count": 4}, "expects 4 processes, process 0 expects 3"),
        ({"index": 3}, "indices go from 0 to 2"),
    ],
)
def test_a_process_that_does_not_belong_is_turned_away_and_the_others_meet(port, stranger, reason):
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(together, place(port, index), seconds=20.0) for index in (0, 2)]
        (said,) = together(place(port, 1)._replace(**stranger), seconds=20.0)
        assert reason in said
        (last,) = together(place(port, 1), seconds=20.0)
        met = [each.result()[0] for each in waiting]
    assert all(isinstance(meeting, Meeting) for meeting in (*met, last))
    close(*met, last)


def test_two_processes_of_one_index(port):
    with ThreadPoolExecutor(3) as pool:
        zero = pool.submit(together, place(port, 0), seconds=20.0)
        twins = [pool.submit(together, place(port, 2), seconds=20.0) for _ in range(2)]
        while not any(twin.done() for twin in twins):
            time.sleep(0.01)
        (last,) = together(place(port, 1), seconds=20.0)
        ends = [twin.result()[0] for twin in twins]
    (said,) = (end for end in ends if isinstance(end, str))
    assert "have the same index" in said
    close(last, *zero.result(), *ends)


def test_what_is_not_ours_does_not_disturb(port):
    with ThreadPoolExecutor(2) as pool:
        zero = pool.submit(together, place(port, 0, count=2), seconds=20.0)
        for text in (b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b""):
            other = None
            while other is None:
                try:
                    other = socket.create_connection(("127.0.0.1", port), timeout=1)
                except OSError:
                    continue
            other.sendall(text)
            other.close()
        (one,) = together(place(port, 1, count=2), seconds=20.0)
        assert sorted(zero.result()[0].peers) == [1]
    close(one, *zero.result())


def test_two_jobs_on_one_machine_take_different_ports(port):
    """The launcher gives both the same first port; the processes of each find their own process 0."""
    ports = range(port, port + 4)
    jobs = [Place("127.0.0.1", ports, 2, index, run) for run in "ab" for index in (0, 1)]
    met = together(*jobs, seconds=20.0)
    assert met[0].coordinator == met[1].coordinator != met[2].coordinator == met[3].coordinator
    close(*met)


def test_a_port_is_kept_from_other_jobs_until_the_coordinator_of_jax_listens(port):
    first = together(place(port, 0, count=2), place(port, 1, count=2))
    (said,) = together(place(port, 0, count=2, run="b"))
    assert f"port {port} of 127.0.0.1 is in use" in said
    close(*first)
    second = together(place(port, 0, count=2, run="b"), place(port, 1, count=2, run="b"))
    assert [sorted(meeting.peers) for meeting in second] == [[1], [0]]
    close(*second)


def test_a_port_in_use_and_a_foreign_address_are_refused(port):
    with socket.create_server(("127.0.0.1", port)):
        (said,) = together(place(port, 0))
        assert f"port {port} of 127.0.0.1 is in use" in said
    (said,) = together(place(port, 0)._replace(host="192.0.2.1"))
    assert "192.0.2.1, which is no address of this machine" in said
    (said,) = together(place(port, 0)._replace(host="no-such-host.invalid"))
    assert "no-such-host.invalid, which is unknown here" in said


def test_variables_of_another_job_are_refused(monkeypatch):
    monkeypatch.setenv("MEGASCALE_COORDINATOR_ADDRESS", "10.9.9.9:8080")
    with pytest.raises(InputError, match=r"MEGASCALE_COORDINATOR_ADDRESS is 10\.9\.9\.9:8080, but --hosts names"):
        check_megascale("10.0.0.1")
    monkeypatch.setenv("MEGASCALE_COORDINATOR_ADDRESS", "10.0.0.1")
    check_megascale("10.0.0.1")


@pytest.fixture
def ends():
    """Two connections as process 0 has them with processes 1 and 2, and the other ends."""
    pairs = [socket.socketpair() for _ in range(2)]
    yield {n + 1: Peer(f"process {n + 1} (there)", pair[0]) for n, pair in enumerate(pairs)}, [b for _, b in pairs]
    for pair in pairs:
        for connection in pair:
            connection.close()


def test_a_closed_connection_names_the_lost_one_and_the_others_hear_of_it(ends):
    peers, (one, two) = ends
    lost: queue.Queue[str] = queue.Queue()
    life = Lifeline(peers, 10.0, lost.put)
    heard: queue.Queue[str] = queue.Queue()
    other = Lifeline({0: Peer("process 0 (here)", two)}, 10.0, heard.put)
    one.close()
    assert lost.get(timeout=5) == heard.get(timeout=5) == "process 1 (there) is lost: its connection closed"
    life.part()
    other.part()


def test_a_silent_one_is_lost_and_one_that_parts_is_not(ends):
    peers, (_silent, parting) = ends
    lost: queue.Queue[str] = queue.Queue()
    life = Lifeline(peers, 1.0, lost.put)
    heard: queue.Queue[str] = queue.Queue()
    Lifeline({0: Peer("process 0 (here)", parting)}, 10.0, heard.put).part()
    assert lost.get(timeout=5) == "process 1 (there) is lost: nothing was heard of it for 1 s"
    life.part()
    assert lost.empty()
    assert heard.empty()


def test_a_stuck_process_writes_its_stacks():
    program = (
        "import time\nfrom sessionrec_jax.devices.watchdog import Watchdog\n"
        "dog = Watchdog(0.5, 'process 3')\ndef stuck_here():\n    time.sleep(60)\nstuck_here()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ, timeout=60)
    assert done.returncode == 1
    assert "process 3 has taken no step for 0.5 s" in done.stderr
    assert "in stuck_here" in done.stderr


def test_a_wrong_limit_is_one_message(tmp_path, capsys):
    where = "coordinator=localhost:1,count=2,index=0,stuck_after_seconds=0"
    assert main(["train", str(tmp_path), "--out", str(tmp_path / "run"), "--hosts", where]) == 2
    assert "stuck_after_seconds is 0.0; wanted 1 or more" in capsys.readouterr().err
