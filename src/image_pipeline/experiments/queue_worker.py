"""A worker of DVC's queue, as `dvc exp queue-worker` is, for projects in a folder of any name.

DVC (3.67) writes the path of its cache into a file in ASCII, so `dvc queue start` fails in a folder
with other letters. Here it writes UTF-8, in which it reads that file.
"""

import sys
from functools import partial
from hashlib import sha256
from pathlib import Path

WORKER = "image_pipeline.experiments.queue_worker"  # this module, also where it runs as `__main__`


def spawn_worker(folder: Path, number: int) -> None:
    """Start a worker, named as DVC names its own, that outlives this process.

    Args:
        folder: of the queue.
        number: of the worker; the first one cleans the queue up when it ends.
    """
    from dvc_task.proc.process import ManagedProcess

    queue = sha256(str(folder).encode()).hexdigest()[:6]
    command = [sys.executable, "-m", WORKER, f"dvc-exp-{queue}-{number}@localhost"]
    clean = ["--clean"] if number == 1 else []
    ManagedProcess.spawn([*command, *clean], wdir=str(folder), name=f"dvc-exp-worker-{number}")


def main() -> int:
    """Run the worker until there is nothing left to do; return its exit status."""
    from configobj import ConfigObj  # type: ignore[import-untyped]
    from dvc.cli import main as dvc  # type: ignore[import-untyped]
    from dvc.repo.experiments.executor import local  # type: ignore[import-untyped]

    local.ConfigObj = partial(ConfigObj, encoding="utf-8")
    status: int = dvc(["exp", "queue-worker", *sys.argv[1:]])
    return status


if __name__ == "__main__":
    sys.exit(main())
