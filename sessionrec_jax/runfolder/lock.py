"""`lock(file, how)` locks a file between processes of one machine, where the file system can."""

from __future__ import annotations

import errno
import fcntl
from typing import IO

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


def lock(file: IO[str], how: int) -> bool | None:
    """Locks `file` by flock; `how` is fcntl.LOCK_EX or the like.

    Returns False if another process holds it (with LOCK_NB), None if the file system has no locks, else True.
    """
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return None
    return True
