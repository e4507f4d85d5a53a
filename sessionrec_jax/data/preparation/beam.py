"""Apache Beam as the engine of preparation, for logs that are too long for one machine (extra `beam`).

Beam only distributes the calls. Each call is a function of prepare.py, so the result is the same as on one machine.
All workers must reach the source and the prepared folder under the same paths. TFDS's own use of Beam does not fit: it
orders records by the hash of a key, and users here have their own order, on which subsets rely.
"""

from __future__ import annotations

import pickle
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sessionrec_jax.errors import InputError

_QUIET = "--default_sdk_harness_log_level=WARNING"


class Beam:
    """An engine (prepare.Engine): each call is an element of a pipeline and writes its result to a file in `shared`.

    All workers see the folder `shared`, which must exist at a call.
    """

    def __init__(self, options: Sequence[str], shared: Path):
        """Takes the runner's options as NAME=VALUE. Raises InputError if Beam is not installed or refuses them."""
        try:
            import apache_beam as beam
            from apache_beam.options.pipeline_options import PipelineOptions
        except ImportError:
            raise InputError("Apache Beam is not installed; `pip install 'sessionrec-jax[beam]'` installs it") from None
        try:
            self._options = PipelineOptions([_QUIET, *(f"--{option}" for option in options)])
            beam.Pipeline(options=self._options)  # looks for the runner
        except (SystemExit, ValueError) as error:
            raise InputError(f"Beam does not take the options {' '.join(options)}: {error}") from None
        self._shared = shared

    def __call__(self, function: Callable[[Any], Any], values: Sequence[Any]) -> Iterator[Any]:
        """Yields the results in order. Raises the InputError of a call that raised one."""
        import apache_beam as beam

        with tempfile.TemporaryDirectory(prefix="beam-", dir=self._shared) as folder:
            call = _Call(function, folder)
            with beam.Pipeline(options=self._options) as pipeline:
                numbered = pipeline | beam.Create(list(enumerate(values)))
                _ = numbered | beam.Reshuffle() | beam.Map(call)
            for number in range(len(values)):
                # safe: only this user can write into the folder, which mkdtemp made, and only _Call does
                result = pickle.loads((Path(folder) / str(number)).read_bytes())
                if isinstance(result, InputError):
                    raise result
                yield result


class _Call:
    """The work on one element. The result appears complete or not at all, because a runner may call twice."""

    def __init__(self, function: Callable[[Any], Any], folder: str):
        self._function, self._folder = function, folder

    def __call__(self, numbered: tuple[int, Any]) -> None:
        number, value = numbered
        try:
            result = self._function(value)
        except InputError as error:
            result = error
        partial = Path(self._folder) / f".{number}.{uuid.uuid4()}"  # unique across machines
        partial.write_bytes(pickle.dumps(result))
        partial.rename(Path(self._folder) / str(number))
