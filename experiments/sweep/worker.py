"""One worker of a sweep folder: it takes the costliest run that nobody has, does it, and takes the next.

    work(Path("SWEEP"))

Any number of workers, on any hosts, share a folder through its leases. A run whose worker died is taken over and goes
on from its last checkpoint. A run that fails, or kills its workers, is tried `retries` times more; then it gets a
failed row with the reason and the end of its log.

With `together` above 1 a worker takes several runs at once that can share a program, and trains them side by side.
Each is held by its own lease. If one of them fails, all are released and each is done alone from its checkpoint, so
that the run at fault fails by itself. A run on its last attempt is done alone too.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from doors.private import COMPILE_CACHE, check_compile_cache, is_private
from doors.storage import cache, copies
from doors.terminal import say
from experiments.plugins import import_all
from experiments.sweep import halving, sweep_folder
from experiments.sweep.attempt import do_alone, do_together
from experiments.sweep.bucket_leases import leases_of
from experiments.sweep.lease import Lease, Lost, Past
from experiments.sweep.worker_options import DEFAULT_OPTIONS, DoRun, WorkerOptions, Write
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import program_of
from sessionrec_jax.errors import InputError
from sessionrec_jax.runfolder.files import read_row
from sessionrec_jax.runfolder.stopping import STOPPING, Stop

_POLL_SECONDS = 1.0
"""Between two looks at runs that others have."""
_POLL_SECONDS_OF_BUCKET = 10.0
"""The same where each look costs requests."""


def train_and_measure(config: Config, run_dir: Path, plan: str, *, stop: Stop, write: Write, part: float = 1.0) -> None:
    """The DoRun of a real sweep."""
    from sessionrec_jax.row import run  # starts jax, after the environment is set

    run(config, run_dir, plan, quiet=True, stop=stop, write=write, part=part)


def work(
    sweep_dir: Path,
    run: DoRun = train_and_measure,
    options: WorkerOptions = DEFAULT_OPTIONS,
    *,
    only: str | None = None,
    waits: bool = True,
    refresh: Callable[[], None] = lambda: None,
) -> None:
    """Works on a sweep until every run has a row.

    Args:
      run: does a run that is alone; `row.run_together` does several at once.
      only: the run_id of the only run to do.
      waits: if False, returns as soon as no run is free, although other workers have not finished theirs.
      refresh: called after each run, and every second while other workers have the rest.

    A signal of STOPPING releases the run, saved if it trains, and raises Stopped or SystemExit. If a heartbeat finds
    that another worker has taken the run over, the process ends with code 75 (EX_TEMPFAIL).
    """
    import_all()
    sweep_dir = copies.opened(sweep_dir, copies.for_workers)
    if copy := copies.copy_of(sweep_dir):
        copy.bucket.check_conditions(copy.address / uuid.uuid4().hex)
    _keep_programs(sweep_dir)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    plan, configs = sweep_folder.read(sweep_dir)
    queue = _Queue(sweep_dir, configs, options, only)
    with _ending_on_signals(), copies.midway():
        while queue.left:
            lease = queue.take()
            if lease is None:
                if queue.left and not waits:
                    return
                poll_seconds = _POLL_SECONDS if copies.copy_of(sweep_dir) is None else _POLL_SECONDS_OF_BUCKET
                time.sleep(poll_seconds if queue.left else 0)
            elif partners := queue.take_partners(lease):
                group = [lease, *partners]
                parts = [queue.next_of(each).part for each in group]
                if not do_together(group, [configs[each.run_id] for each in group], sweep_dir, plan, parts=parts):
                    queue.alone |= {each.run_id for each in group}
            else:
                with lease, contextlib.suppress(Lost):
                    do = _doing(run, queue.next_of(lease))
                    do_alone(lease, configs[lease.run_id], sweep_dir, plan, run=do, retries=options.retries)
            refresh()


def _keep_programs(sweep_dir: Path) -> None:
    """Lets jax keep compiled programs in the sweep folder, unless somebody else can write there: a program that jax
    reads back runs as this user."""
    check_compile_cache()
    folder = sweep_dir / ".programs"
    if COMPILE_CACHE in os.environ:
        return
    if copies.copy_of(sweep_dir):
        os.environ[COMPILE_CACHE] = str(cache.kept("programs"))
    elif is_private(folder if folder.exists() else sweep_dir):
        os.environ[COMPILE_CACHE] = str(folder)
    else:
        say(f"{folder} could be written by somebody else, so this worker compiles its programs itself")


def _doing(run: DoRun, following: halving.Next) -> DoRun:
    """Returns what is to be done with a run: all of it, the next part of it, or a row that says why it is dropped."""
    if following.dropped:
        return functools.partial(halving.drop, reason=following.dropped)
    return run if following.part == 1 else functools.partial(run, part=following.part)


def costliest_first(configs: dict[str, Config]) -> list[str]:
    """The runs in the order in which they start, so that no long run is left for the end. Runs that begin from another
    run's checkpoint come last."""
    return sorted(configs, key=lambda run_id: (bool(configs[run_id].train.begins_from), -_cost(configs[run_id])))


def _cost(config: Config) -> float:
    """Roughly proportional to a run's time: only the order counts."""
    passes = config.train.epochs * (config.data.users or _ALL_USERS)
    sessions = passes if config.data.fresh == "no" else config.data.fresh_sessions
    return sessions * (20 + config.model.width * (1 + config.model.layers))


_ALL_USERS = 1e12
"""More users than any log has, and still a number that a cost can be compared by."""


class _Queue:
    """The runs of a sweep that have no row yet, and their leases."""

    def __init__(self, sweep_dir: Path, configs: dict[str, Config], options: WorkerOptions, only: str | None):
        self._sweep_dir, self._configs, self._options = sweep_dir, configs, options
        self._leases = leases_of(sweep_dir)
        self._order = costliest_first(configs)
        self.left = [run_id for run_id in self._order if only in (None, run_id)]
        self._said: set[str] = set()
        self.alone: set[str] = set()
        """Runs that failed together with others: they are done alone."""

    def take(self) -> Lease | None:
        """Takes the first run that is free and ready; None if no run is. Runs that have a row leave `left`."""
        newest = self._leases.newest()
        for run_id in tuple(self.left):
            if self._has_row(run_id):
                self.left.remove(run_id)
                self._say_if_damaged(run_id)
            elif self._is_ready(run_id):
                self._say_faults(run_id, newest.get(run_id, 0))
                lease = self._leases.take(run_id, newest.get(run_id, 0), _end_at_once)
                if lease is not None:
                    return lease
        return None

    def take_partners(self, lease: Lease) -> list[Lease]:
        """Takes free runs to train side by side with the run of `lease`, up to `together`."""
        taken: list[Lease] = []
        if self._options.together == 1 or lease.run_id in self.alone or not self._may_fail(lease.past):
            return taken
        if self.next_of(lease).dropped:
            return taken
        newest, program = self._leases.newest(), program_of(self._configs[lease.run_id])
        for run_id in self._order:
            if len(taken) == self._options.together - 1:
                break
            if run_id == lease.run_id or program_of(self._configs[run_id]) != program:
                continue
            generation = newest.get(run_id, 0)
            if run_id in self.alone or self._has_row(run_id) or not self._is_ready(run_id):
                continue
            if not self._may_fail(self._leases.past(run_id, generation)):
                continue
            if halving.next_of(self._sweep_dir, self._configs, run_id).dropped:
                continue
            if (other := self._leases.take(run_id, generation, _end_at_once)) is not None:
                taken.append(other)
        return taken

    def next_of(self, lease: Lease) -> halving.Next:
        """Returns what the run of `lease` does next."""
        return halving.next_of(self._sweep_dir, self._configs, lease.run_id)

    def _has_row(self, run_id: str) -> bool:
        return (sweep_folder.run_dir(self._sweep_dir, run_id) / "row.json").exists()

    def _say_if_damaged(self, run_id: str) -> None:
        try:
            read_row(sweep_folder.run_dir(self._sweep_dir, run_id))
        except InputError as error:
            say(error)

    def _say_faults(self, run_id: str, generation: int) -> None:
        """Reports each damaged lease of a run once."""
        for fault in set(self._leases.past(run_id, generation).faults) - self._said:
            self._said.add(fault)
            say(fault)

    def _is_ready(self, run_id: str) -> bool:
        return halving.is_ready(self._sweep_dir, self._configs, run_id)

    def _may_fail(self, past: Past) -> bool:
        """True if the run has another attempt after the next one, or if the next one is its first."""
        return past.attempts < max(self._options.retries, 1)


def _end_at_once() -> NoReturn:
    say("another worker has taken this run over: this process did not respond for too long")
    sys.stderr.flush()
    os._exit(os.EX_TEMPFAIL)


@contextmanager
def _ending_on_signals() -> Iterator[None]:
    """Ends the process by SystemExit at a signal of STOPPING while a run compiles, evaluates or waits. Training
    installs its own handler and saves first; evaluation starts over from its beginning. An ignored signal stays
    ignored."""

    def leave(number: int, _: FrameType | None) -> NoReturn:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    before = {each: signal.getsignal(each) for each in STOPPING if signal.getsignal(each) is not signal.SIG_IGN}
    for each in before:
        signal.signal(each, leave)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
