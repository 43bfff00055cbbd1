"""Locks on files: none is left behind, and the system releases them when a process ends."""

import sys
import time

TYPE_CHECKING = False  # not typing's, whose import takes longer than this one's
if TYPE_CHECKING:
    import os
    from typing import IO


def lock(path: "str | os.PathLike[str]", timeout: float = 0) -> "IO[bytes] | None":
    """Lock a file until the returned one is closed; None if another process keeps it locked.

    Windows, and network folders without locks, let every process have it.

    Args:
        path: of a file that exists.
        timeout: seconds to wait for the other process.
    """
    file = open(path, "rb")  # noqa: PTH123, SIM115 - open, and so locked, until the caller's end
    if sys.platform == "win32":
        return file
    import fcntl

    end = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                file.close()
                return None
            time.sleep(0.1)
        except OSError:
            return file
        else:
            return file
