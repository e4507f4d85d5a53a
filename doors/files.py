"""One door for the files that this program writes, and for folders that it makes.

    check_outputs(args.json, inputs=[args.table])   # before anything is computed
    write_text(args.json, text)                     # a path that a user named; - is standard output
    replace_text(run_dir / "row.json", text)        # state of ours, in a folder that may be somebody else's

A path that a user names is written through a symbolic link to its target, and straight into what is no regular file,
such as a pipe or /dev/null. State of ours never follows a link, because a folder from somebody else may hold links to
files outside it. Both appear whole or not at all: they are written under another name in the same folder and renamed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
import sys
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from doors.address import address_of
from doors.errors import InputError, NotSaved, no_room, wrong_path
from doors.text import shell

STDOUT = Path("-")
"""The name of standard output, where a user names a file."""
_STATE = {
    "prepared.json", "catalogue.npz", "items.parquet", "users.parquet", "rejected.parquet", "card.json", "card.html",
    "truth.json", "config.json", "row.json", "metrics.jsonl", "per_user.parquet", "halving.json", "sweep.json",
    "model.json", "model.safetensors", "recommend.stablehlo",
}  # fmt: skip
"""Files that prepared logs, runs, sweeps and exported models are made of."""


class _Kind(NamedTuple):
    mark: str
    """The file that makes a folder one of this kind."""
    made_by: str
    """The command that makes one, without the name of the folder."""
    name: str
    """The name for such a folder in a message."""


_KINDS = {
    "a prepared log": _Kind("prepared.json", "sessionrec prepare SOURCE ... --out", "LOG"),
    "a sweep": _Kind("sweep.json", "sessionrec sweep PLAN --data DATA --out", "SWEEP"),
    "a run": _Kind("config.json", "sessionrec train DATA --out", "RUN"),
    "an exported model": _Kind("model.json", "sessionrec export RUN --to", "MODEL"),
}
_USES = {
    ("a prepared log", "a run"): "`sessionrec train {} --out RUN` trains one on it",
    ("a prepared log", "a sweep"): "`sessionrec sweep PLAN --data {} --out SWEEP` runs one on it",
    ("a prepared log", "an exported model"): (
        "`sessionrec train {} --out RUN` trains one on it, and `sessionrec export RUN --to MODEL` exports that"
    ),
    ("a run", "an exported model"): "`sessionrec export {} --to MODEL` makes one of it",
    ("a run", "a sweep"): "`sessionrec evaluate {}` shows the metrics of a run",
    ("a sweep", "a run"): "its runs are the folders in {}/runs",
    ("a sweep", "an exported model"): "`sessionrec export {}/runs/RUN_ID --to MODEL` makes one of its run RUN_ID",
}
"""The use of a folder of the first kind where one of the second was wanted."""


def typed_path(word: str) -> Path:
    """Returns the path that a user typed. A ~ at its start is the home folder, as in a shell, which leaves it there
    inside quotes."""
    path = Path(word)
    with contextlib.suppress(RuntimeError):  # the home of a user who is not known here
        return path.expanduser()
    return path


def check_name(path: Path) -> None:
    """Raises InputError for a path that is no text in the encoding of this process. Polars and others take only text,
    and would fail without naming the path."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        try:
            readable = os.fsencode(path).decode()
        except UnicodeDecodeError:
            raise InputError(f"{path}: this name is not in UTF-8; rename it") from None
        raise InputError(
            f"{readable}: this process reads names as {sys.getfilesystemencoding()}, and this one is in UTF-8; set "
            "PYTHONUTF8=1 or a locale such as LC_ALL=C.UTF-8, or give it a name in ASCII"
        ) from None


def kind_of(folder: Path) -> str | None:
    """Returns "a prepared log", "a sweep", "a run" or "an exported model" for a folder of ours, else None."""
    with contextlib.suppress(OSError):
        return next((kind for kind, each in _KINDS.items() if (folder / each.mark).is_file()), None)
    return None


def is_not(folder: Path, wanted: str) -> str:
    """Returns the message that `folder` is not `wanted`: the kind that it is, and a command that goes on from there."""
    known, found = _KINDS[wanted], kind_of(folder)
    if found is not None and (use := _USES.get((found, wanted))):
        return f"{folder} is {found}, not {wanted}: {use.format(shell(folder))}"
    try:
        check_folder(folder, wanted)
        is_free = not folder.exists()
    except InputError:
        is_free = False
    command = f"{known.made_by} {shell(folder) if is_free else known.name}"
    if found is not None:
        return f"{folder} is {found}, not {wanted}: `{command}` makes one"
    return f"{folder} is not {wanted} (it has no {known.mark}); `{command}` makes one"


def check_folder(folder: Path, wanted: str) -> None:
    """Raises InputError if `folder` cannot become `wanted` ("a run", "a sweep", "a prepared log"): it is of another
    kind, or inside a prepared log or a run, or its path cannot be used. Makes nothing."""
    refuse_address(folder)
    check_name(folder)
    with named(folder):
        resolved = folder.resolve()
        check_name(resolved)
        is_wrong = resolved.exists() and not resolved.is_dir()
    if is_wrong:
        raise InputError(f"cannot write {folder}: it is a file; name a folder for {wanted}")
    if (kind := kind_of(resolved)) not in (None, wanted):
        raise InputError(f"{folder} is {kind}, and {wanted} would be mixed with it; name another folder")
    for parent in resolved.parents:
        if (kind := kind_of(parent)) in ("a prepared log", "a run"):
            raise InputError(f"{folder} is inside {parent}, which is {kind}; name a folder outside it for {wanted}")
    existing = next(each for each in (resolved, *resolved.parents) if os.path.lexists(each))
    with named(folder):
        for part in resolved.relative_to(existing).parts:
            (existing / part).exists()  # raises OSError for a name that is too long
        probe = existing / f".{uuid.uuid4().hex}"
        probe.mkdir()
        probe.rmdir()


def make_folder(folder: Path) -> None:
    """Makes a folder with its parents, if it is not there. Raises InputError or NotSaved, which names it."""
    with named(folder):
        folder.mkdir(parents=True, exist_ok=True)


def check_outputs(*outputs: Path | None, inputs: Iterable[Path | None] = ()) -> None:
    """Checks the files that a command will write, before it computes anything. None is skipped.

    Raises InputError if one cannot be written, is a file that a prepared log, a run or a sweep is made of, or is an
    input or another output. It leaves no trace, except that it makes and removes an empty file next to each output.
    """
    taken = [(path, "read") for path in inputs if path is not None]
    if outputs.count(STDOUT) > 1:
        raise InputError("two outputs would go to standard output; name a file for one of them")
    for path in outputs:
        if path in (None, STDOUT):
            continue
        target = _target(path)
        for other, how in taken:
            if target == Path(os.path.realpath(other)) and not _is_special(target):
                raise InputError(f"cannot write {path}: it is the file that this command has {how}; name another")
        if target.name in _STATE and kind_of(target.parent):
            raise InputError(f"cannot write {path}: {target.parent} is {kind_of(target.parent)} and made of that file")
        with named(path):
            if _is_special(target):
                if not os.access(target, os.W_OK):
                    raise PermissionError(_NOT_PERMITTED, os.strerror(_NOT_PERMITTED))
            else:
                if target.exists() and not os.access(target, os.W_OK):
                    raise PermissionError(_NOT_PERMITTED, os.strerror(_NOT_PERMITTED))
                target.exists()  # a name that is too long raises here
                partial = _partial(target)
                partial.touch(exist_ok=False)
                partial.unlink()
        taken.append((path, "to write too"))


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Gives the path to write for a file that a user named; when the block ends, `path` has the whole content.

    Raises NotSaved on a full disk or a failed write, and InputError where the path cannot be written. Then nothing of
    the attempt is left, and an older file at `path` is as it was.
    """
    target = _target(path)
    if _is_special(target):
        with named(path):
            yield target
        return
    with named(path), _renamed(target) as partial:
        yield partial


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Does what `writing` does for a file of a prepared log, a run or a sweep. A link at `path` is replaced."""
    with named(path), _renamed(path) as partial:
        yield partial


@contextlib.contextmanager
def _renamed(target: Path) -> Iterator[Path]:
    partial = _partial(target)
    try:
        yield partial
        if target.is_file() and not target.is_symlink():
            shutil.copymode(target, partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a file that a user named, as `writing` does; STDOUT is printed."""
    if path == STDOUT:
        sys.stdout.write(text)
        return
    with writing(path) as target:
        _put(target, text.encode())


def write_json(path: Path, values: Any) -> None:
    """Writes JSON for a user as `writing` does. Raises ValueError for NaN, which JSON does not have."""
    write_text(path, json.dumps(values, indent=1, allow_nan=False) + "\n")


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file that a user named, as `writing` does."""
    with writing(path) as target:
        _put(target, content)


def replace_text(path: Path, text: str) -> None:
    """Writes a file of our state, as `replacing` does."""
    with replacing(path) as target:
        _put(target, text.encode())


def _put(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)


def open_own(path: Path, mode: str) -> IO[Any]:
    """Opens a file of our state with a `mode` of `open`. Raises InputError if a symbolic link is in its place."""

    def no_link(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)

    with named(path):
        return open(path, mode, opener=no_link)


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Turns an OSError of the block into one message that names `path`: NotSaved on a full disk or a broken device,
    InputError where the path itself cannot be used."""
    try:
        yield
    except NotSaved:
        raise
    except Exception as error:
        if words := no_room(error):
            raise NotSaved(
                f"{path} could not be written: {words}; make room and type the same command again"
            ) from error
        if isinstance(error, OSError):
            if words := wrong_path(error):
                raise InputError(f"cannot use {path}: {words}") from error
            raise NotSaved(f"{path} could not be written: {error.strerror or error}") from error
        raise


_NAME_TOO_LONG, _NOT_PERMITTED = errno.ENAMETOOLONG, errno.EACCES


def refuse_address(path: Path) -> None:
    """Raises InputError for an address in a bucket."""
    if (address := address_of(path)) is not None:
        raise InputError(
            f"{address} is in a bucket, and this works on the file system alone; copy or mount what it has"
        )


def _target(path: Path) -> Path:
    """Returns the file that `path` leads to through links. Raises InputError for a circle of links and a folder."""
    refuse_address(path)
    with named(path):
        target = Path(os.path.realpath(path))
        if target.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if not target.parent.exists():
            raise InputError(f"cannot write {path}: there is no folder {path.parent}")
        if target.is_dir():
            raise InputError(f"cannot write {path}: it is a folder; name a file")
    return target


def _is_special(path: Path) -> bool:
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _partial(target: Path) -> Path:
    # A process number would not do, because several hosts may write; the target's own name could become too long.
    return target.with_name(f".{uuid.uuid4().hex}.partial")
