"""What the five stage scripts have in common: --help, one-line errors, Ctrl-C."""

import argparse
import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

from image_pipeline.errors import PipelineError
from image_pipeline.paths import PARAMS

INTERRUPTED = 130  # 128 + SIGINT, as shells report it

REMEDIES = {
    errno.ENOSPC: "free some space, then run `dvc repro` again",
    errno.EDQUOT: "free some space, then run `dvc repro` again",
    errno.EFBIG: "raise the file-size limit (`ulimit -f`), then run `dvc repro` again",
    errno.EROFS: "make the folder writable, then run `dvc repro` again",
    errno.EACCES: "make it readable and writable for you, then run `dvc repro` again",
    errno.EPERM: "make it readable and writable for you, then run `dvc repro` again",
    errno.ENOENT: "run `dvc repro`, which makes what is missing",
}


def run_stage(main: Callable[[], None], description: str) -> None:
    """Run a stage's `main` as a command and end the process.

    Exit status: 0 on success, 2 for a mistake in params.yaml or on the command line, 130 after
    Ctrl-C, 1 for every other failure a user can meet. A traceback is shown for a bug only.
    """
    name = Path(sys.argv[0]).stem
    parser = argparse.ArgumentParser(
        prog=f"python stages/{name}.py",
        description=description,
        epilog=f"All settings are read from {PARAMS}; run from the project's root. "
        "`dvc repro` runs the stages that are out of date, in order.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args()
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)
    try:
        main()
    except PipelineError as error:
        _fail(name, str(error), error.exit_code)
    except KeyboardInterrupt:
        print(file=sys.stderr)  # leave the progress bar's line as it was
        _fail(name, "interrupted; run `dvc repro` to go on from here", INTERRUPTED)
    except MemoryError as error:
        detail = str(error) or "the machine has too little memory"
        _fail(name, f"out of memory: {detail}; close other programs or lower the batch size", 1)
    except OSError as error:
        if error.errno not in REMEDIES:
            raise
        what = error.filename or "a file"
        _fail(name, f"{what}: {os.strerror(error.errno)}; {REMEDIES[error.errno]}", 1)


def _fail(name: str, message: str, exit_code: int) -> None:
    print(f"{name}: error: {message}", file=sys.stderr, flush=True)
    # Not sys.exit: a library's exit handlers can take seconds, or print, after an interrupt.
    sys.stdout.flush()
    os._exit(exit_code)
