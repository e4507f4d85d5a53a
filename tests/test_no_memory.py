"""Too little memory, on the machine or on a device, ends a command with one message and exit code 1."""

from __future__ import annotations

import errno
import mmap
import os

import jax.numpy as jnp
import pytest

from experiments.exit_code import exit_code


def of_the_device():
    jnp.zeros((1 << 31, 1 << 18), jnp.float32)  # two petabytes


def of_the_process():
    bytearray(1 << 60)


def of_a_map():
    mmap.mmap(-1, 1 << 60)


@pytest.mark.parametrize(
    ("asks", "where"), [(of_the_device, "a device"), (of_the_process, "this process"), (of_a_map, "this process")]
)
def test_memory_that_is_refused_is_one_message(asks, where, capsys):
    assert exit_code(asks) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {where} has too little memory")
    assert "Traceback" not in said
    assert "fewer rows" in said.lower()


def test_other_errors_of_jax_and_of_files_keep_their_traceback():
    def wrong_shapes():
        jnp.zeros(3) + jnp.zeros(4)

    def bad_descriptor():
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    for call in (wrong_shapes, bad_descriptor):
        with pytest.raises((TypeError, ValueError, OSError)):
            exit_code(call)
