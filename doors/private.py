"""Folders that nobody else can write. What is read back as a program (pickles, compiled programs) comes only from them.

    folder = own_folder("cores")                       # of this user and machine, made if it is not there
    check_private(sweep_dir / "slurm", "the jobs' pickles")

A person who can write into such a folder could run programs as this user.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

from doors.errors import InputError
from doors.files import named


def own_folder(name: str) -> Path:
    """Returns a folder of this user on this machine, mode 700, in XDG_RUNTIME_DIR or else in the temporary directory.

    Raises InputError if somebody else has put a folder or a link in its place.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    base = Path(runtime) if runtime and _writers(Path(runtime)) is None else Path(tempfile.gettempdir())
    parent = base / f"sessionrec-{_user()}"
    for folder in (parent, parent / name):
        make_private(folder)
    return parent / name


def make_private(folder: Path) -> None:
    """Makes a folder with mode 700 if it is not there. Raises InputError if what is there is a link or somebody's."""
    with named(folder):
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != _user() or found.st_mode & 0o077:
        raise InputError(
            f"{folder} is not a folder of mode 700 that belongs to this user, so somebody else may have put it there; "
            "wanted to keep files in it that nobody else can write. Delete it"
        )


def is_private(folder: Path) -> bool:
    """True if nobody but this user and root can write into `folder`, or put another one in its place."""
    return _writers(folder) is None


def check_private(folder: Path, holds: str) -> None:
    """Raises InputError if somebody else can write into `folder`. `holds` names its content, in words."""
    if writers := _writers(folder):
        raise InputError(
            f"{folder} holds {holds}, which would run as this user, and {writers}. Use a folder that nobody else can "
            "write (chmod go-w), or one of your own"
        )


COMPILE_CACHE = "JAX_COMPILATION_CACHE_DIR"
"""The variable with the folder of compiled programs, which jax reads back and runs."""


def check_compile_cache() -> None:
    """Raises InputError if somebody else can write into the folder of compiled programs that the environment names."""
    folder = os.environ.get(COMPILE_CACHE, "")
    if folder and "://" not in folder and Path(folder).exists():
        check_private(Path(folder), f"compiled programs ({COMPILE_CACHE})")


def _writers(folder: Path) -> str | None:
    """Returns who else can write into a folder or replace it, in words; None if nobody can."""
    resolved = folder.resolve()
    for place in (resolved, *resolved.parents):
        try:
            found = place.stat()
        except OSError as error:
            return f"{place} cannot be examined ({error.strerror})"
        if found.st_uid not in (_user(), 0):
            return f"{place} belongs to another user"
        # In a sticky folder, such as /tmp, nobody else can replace what is ours. The folder itself may not be one.
        if place != resolved and found.st_mode & stat.S_ISVTX:
            continue
        if found.st_mode & stat.S_IWOTH:
            return f"everybody can write into {place}"
        if found.st_mode & stat.S_IWGRP and not _is_own_group(found.st_gid):
            return f"a group can write into {place}"
    return None


def _is_own_group(gid: int) -> bool:
    """True if a group has no member but this user, as the group of a user's own name on many systems, or is root's."""
    import grp
    import pwd

    try:
        group, name = grp.getgrgid(gid), pwd.getpwuid(_user()).pw_name
    except KeyError:
        return False
    return group.gr_name in (name, "root") and set(group.gr_mem) <= {name, "root"}


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0
