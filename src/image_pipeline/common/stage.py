"""The command line of a stage script: --help, one-line errors, Ctrl-C, one run at a time.

A stage script imports `run_stage` at its top and everything else in `main`, so that errors and
Ctrl-C are handled during the imports, too, where a short stage spends most of its time. For the
same reason this module imports at its top only what loads in a few milliseconds.
"""

import errno
import gc
import os
import signal
import sys
from contextlib import suppress

from image_pipeline.common.locks import lock
from image_pipeline.common.tqdm_private import open_bars

TYPE_CHECKING = False  # not typing's, whose import takes as long as all of the above
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO, NoReturn

FREE_SPACE = "free some space, then run `dvc repro` again"
GRANT_ACCESS = "make it readable and writable for you, then run `dvc repro` again"
MOVE_AWAY = "move away what is in its place, then run `dvc repro` again"
# These raise no class of error of their own: torch's allocator, the C++ library, the linker.
NO_MEMORY_WORDS = ("can't allocate memory", "bad_alloc", "failed to map segment")
REMEDIES = {
    errno.ENOSPC: FREE_SPACE,
    errno.EDQUOT: FREE_SPACE,
    errno.EFBIG: "raise the file-size limit (`ulimit -f`), then run `dvc repro` again",
    errno.EROFS: "make the folder writable, then run `dvc repro` again",
    errno.EACCES: GRANT_ACCESS,
    errno.EPERM: GRANT_ACCESS,
    errno.EISDIR: MOVE_AWAY,
    errno.ENOTDIR: MOVE_AWAY,
    errno.EEXIST: MOVE_AWAY,
    errno.ELOOP: "remove this link, then run `dvc repro` again",
    errno.EIO: "check the disk, then run `dvc repro` again",
    errno.ENOENT: "run `dvc repro`, which makes what is missing",
}
# DVC removes a stage's outputs before it runs the stage, and no setting keeps both them and the run
# cache. The committed ones can be restored by one line.
RESTORE = (
    " (DVC removed this stage's outputs before running it; "
    "`git checkout dvc.lock metrics plots && dvc checkout` brings the committed ones back)"
)


def run_stage(main: "Callable[[], None]", description: str) -> None:
    """Run a stage's `main` as a command and end the process.

    Exit status: 0 on success, 2 for a mistake in params.yaml or on the command line, 130 after
    Ctrl-C, 143 after SIGTERM, 1 for any other error that a user can meet. Only a bug shows a
    traceback.
    """
    name = os.path.basename(sys.argv[0]).removesuffix(".py")  # noqa: PTH119
    _end_on_signals(name)
    _parse_arguments(name, description)
    script = _wait_for_turn(name)
    try:
        explain_failures(name, main)
    finally:
        if script:
            script.close()


def explain_failures(name: str, main: "Callable[[], None]") -> None:
    """Run a stage's `main`; an error that a user can meet ends the process with one line."""
    from image_pipeline.common.errors import PipelineError

    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)
    # Imports create many objects and free few: fewer collections save a tenth of their time.
    gc.set_threshold(100_000, 10, 10)
    try:
        main()
    except PipelineError as error:
        _fail(name, str(error), error.exit_code)
    except MemoryError as error:
        _fail(name, _out_of_memory(error), 1)
    except (RuntimeError, ImportError) as error:
        if not any(words in str(error) for words in NO_MEMORY_WORDS):
            raise
        _fail(name, _out_of_memory(error), 1)
    except OSError as error:
        if error.errno == errno.ENOMEM:
            _fail(name, _out_of_memory(error), 1)
        if error.errno not in REMEDIES:
            raise
        what = error.filename or "a file"
        _fail(name, f"{what}: {os.strerror(error.errno)}; {REMEDIES[error.errno]}", 1)


def _parse_arguments(name: str, description: str) -> None:
    import argparse

    from image_pipeline.common.paths import PARAMS

    parser = argparse.ArgumentParser(
        prog=f"python stages/{name}.py",
        description=description,
        epilog=f"All settings are read from {PARAMS}; run from the project's root. "
        "`dvc repro` runs the stages that are out of date, in order.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args()


def _end_on_signals(name: str) -> None:
    """End the process at once, with one line, on Ctrl-C and on SIGTERM.

    Not by an exception, which a library that is being imported may replace or swallow. A run may be
    killed at any moment without harm, so there is nothing to clean up but partial files.
    """
    endings = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}

    def end(number: int, _frame: object) -> None:
        for each in endings:
            signal.signal(each, signal.SIG_IGN)  # a second Ctrl-C adds nothing
        if files := sys.modules.get("image_pipeline.common.files"):
            files.discard_partials()
        _say(f"{name}: error: {endings[signal.Signals(number)]}; run `dvc repro` to go on")
        os._exit(128 + number)  # as shells report it

    for number in endings:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, end)


def _wait_for_turn(name: str) -> "IO[bytes] | None":
    """Lock this stage's script in this folder; wait while another run of it has the lock.

    Two runs at once would write the same files: a second one started by hand, or one that continued
    when only the `dvc repro` above it was killed.
    """
    script = lock(sys.argv[0])
    if not script:
        _say(f"{name}: another run of this stage is active in this folder; waiting for it to end")
        script = lock(sys.argv[0], float("inf"))
    return script


def _out_of_memory(error: BaseException) -> str:
    from image_pipeline.common.paths import PARAMS

    detail = str(error).strip().split("\n")[0] or type(error).__name__
    return (
        "out of memory: close other programs, or lower train.batch_size or the sizes in "
        f"train.model of {PARAMS} ({detail})"
    )


def _fail(name: str, message: str, exit_code: int) -> "NoReturn":
    # If the last stage fails, the outputs of the others are good: there is nothing to restore.
    hint = RESTORE if os.environ.get("DVC_STAGE") and name != "export" else ""
    _say(f"{name}: error: {message}{hint}")
    # Not sys.exit: libraries' exit handlers can take seconds, or print.
    sys.stdout.flush()
    os._exit(exit_code)


def _say(line: str) -> None:
    """Write a line to standard error, over a progress bar if there is one.

    By the system call, as a signal may have interrupted another write through `sys.stderr`.
    """
    start = "" if not open_bars() else "\r\x1b[K" if os.isatty(2) else "\n"
    with suppress(OSError):
        os.write(2, f"{start}{line}\n".encode(errors="replace"))
