"""Fixtures for all tests: eight fake devices, a small prepared log, and a small configuration for it."""

from __future__ import annotations

import functools
import os
import signal
import sys
import tempfile
from importlib.metadata import version

# jax reads these when it starts its backend. There are always eight devices, so no test of sharding is ever skipped.
# The programs are small, so compiling them fast matters more than running them fast.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true"
)
if version("jaxlib").startswith("0.10."):  # another release may not know the flag, and would end the process
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"

# Tests of one worker, and the processes that they start, share their compiled programs: many train the same model.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ or "PYTEST_XDIST_WORKER" in os.environ:
    _programs = tempfile.TemporaryDirectory(prefix="sessionrec-programs-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _programs.name
else:
    _programs = None
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

# A shell lets background jobs ignore Ctrl-C, and nohup a lost terminal; so would every process that a test starts and
# then stops.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

import pytest
from hypothesis import settings

# Where bytecode may not be kept, this process and all that it starts compile every source of the project again.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# One test run finds what the last one found, so that a change is judged by what it changes. To search for new inputs:
# HYPOTHESIS_PROFILE=searching.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.register_profile("searching", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))


def pytest_unconfigure() -> None:
    """Deletes the compiled programs here, since a worker ends without the functions of `atexit`."""
    if _programs is not None:
        _programs.cleanup()


@pytest.fixture(scope="module", name="few_forms")
def _few_forms():
    """Every fit of a module compares its law with the quick forms alone."""
    from few_forms import few_forms

    with few_forms():
        yield


@pytest.fixture(scope="session", autouse=True)
def _cards_without_charts():
    """To draw them is half of the work of preparing a small log; test_card.py has cards with charts."""
    from sessionrec_jax.data.preparation import card

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(card, "drawn", lambda distributions: "<svg></svg>")
        yield


@pytest.fixture
def quick_fits(monkeypatch):
    """Fits without profiles and held-out checks, which are slow."""
    import scaling

    monkeypatch.setattr(scaling, "fit", functools.partial(scaling.fit, full=False))


@pytest.fixture
def no_files(monkeypatch):
    """Reports without the files of their figures: to draw three of each takes longer than the page."""
    from scaling.report import exports

    monkeypatch.setattr(exports, "write_figures", lambda *_: None)


@pytest.fixture(scope="session")
def log(tmp_path_factory):
    """A prepared synthetic log: 200 users, 64 items, four side columns, an anchor before each session."""
    from sessionrec_jax.data.preparation.prepare import Settings, prepare
    from sessionrec_jax.data.sources import synthetic

    raw = synthetic.read(synthetic.Options(users=200, base=4, depth=3, seed=1))
    return prepare(raw, tmp_path_factory.mktemp("data") / "log", Settings())


@pytest.fixture(scope="session")
def wide_log(tmp_path_factory):
    """A prepared synthetic log with more items than a batch reads, and with the hour of each session as its context."""
    from sessionrec_jax.data.preparation.prepare import Settings, prepare
    from sessionrec_jax.data.sources import synthetic

    raw = synthetic.read(synthetic.Options(users=60, base=4, depth=7, seed=1))
    return prepare(raw, tmp_path_factory.mktemp("wide") / "log", Settings(session_time=("hour_of_day",)))


@pytest.fixture(scope="session")
def config(log):
    """A resolved Config of about a thousand parameters, for one device and eight rows of sixteen sessions."""
    from sessionrec_jax.config.settings import Config
    from sessionrec_jax.config.values import replace
    from sessionrec_jax.data.resolve import resolve

    small = {
        "data.rows": 8, "data.sessions_per_row": 16,
        "model.width": 8, "model.layers": 1, "model.id_width": 8, "model.side_width": 4,
        "loss.negatives": 32,
        "optim.learning_rate_peak": 1e-2, "optim.table_rate_ratio": 1.0, "mesh.data": 1, "train.epochs": 1.0,
        "data.eval_users": 0,
    }  # fmt: skip
    return resolve(replace(Config(), small), log)


@pytest.fixture(scope="session")
def endpoint():
    """The address of a server of the S3 API on this machine; skips the test where it is not installed."""
    import bucket_server

    with bucket_server.running() as found:
        yield found


@pytest.fixture
def here(endpoint, tmp_path, monkeypatch):
    """An address in a bucket of that server that no other test uses."""
    import uuid

    import bucket_server

    from doors.address import Address

    bucket_server.use(endpoint, tmp_path / "home", monkeypatch)
    return Address("s3", bucket_server.BUCKET, uuid.uuid4().hex)
