"""Starts the child process that compiles, and reads its answer. No jax in this file."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from experiments.pod.chips import Chip
from experiments.pod.job import Job
from sessionrec_jax.errors import InputError

_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",  # no accelerator is looked for
    "TPU_SKIP_MDS_QUERY": "1",  # nor the metadata server of a TPU VM
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # any: without one libtpu asks for it
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # libtpu is otherwise for one process of a machine
}
_LAST_LINES = 15


def check_compiler(chip: Chip) -> None:
    """Raises InputError if the compiler of the chip is not installed."""
    package, extra, kind = ("jax_cuda13_plugin", "pod-gpu", "GPU") if chip.is_gpu else ("libtpu", "pod-tpu", "TPU")
    if importlib.util.find_spec(package) is None:
        raise InputError(
            f'the compiler of {kind}s is not installed, and it needs no {kind}: pip install "sessionrec-jax[{extra}]"'
        )


def compile_job(job: Job) -> dict[str, Any]:
    """Returns what the child found. Raises InputError with the child's words if the input was wrong, and RuntimeError
    with its last lines if it failed."""
    with tempfile.TemporaryDirectory(prefix="sessionrec-pod-") as folder:
        answer = Path(folder) / "answer.json"
        done = subprocess.run(
            [sys.executable, "-m", "experiments.pod.child", str(answer)],
            input=json.dumps(job.to_dict()),
            env=os.environ | _ENVIRONMENT | {"TPU_LOG_DIR": "disabled"},
            capture_output=True,
            text=True,
        )
        if not answer.exists():
            last = "\n".join(done.stderr.splitlines()[-_LAST_LINES:])
            raise RuntimeError(f"compiling for {job.topology} failed with exit code {done.returncode}:\n{last}")
        said = json.loads(answer.read_text())
    if "error" in said:
        raise InputError(said["error"])
    return said["found"]
