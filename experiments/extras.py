"""The extras of the package: which one to install where a command needs a module that is not there."""

from __future__ import annotations

from doors.errors import InputError

_ONE_OF = 'pip install "sessionrec-jax[cpu]" (or [cuda] for NVIDIA GPUs, [tpu] for TPUs)'
_OF_DEVICES = ("absl", "array_record", "etils", "flatbuffers", "flax", "grain", "importlib_resources", "jax", "jaxlib",
               "optax", "orbax", "safetensors", "tensorflow_datasets")  # fmt: skip
_OTHER = {"starlette": "serve", "uvicorn": "serve", "faiss": "search", "obstore": "bucket", "boto3": "bucket"}


def to_install(error: ImportError) -> InputError | None:
    """Returns the message for a module that an extra installs; None for any other module."""
    name = (error.name or "").partition(".")[0]
    if name in _OF_DEVICES:
        return InputError(f"this needs {name}, which is not installed: {_ONE_OF}")
    if name in _OTHER:
        return InputError(f'this needs {name}, which is not installed: pip install "sessionrec-jax[{_OTHER[name]}]"')
    return None
