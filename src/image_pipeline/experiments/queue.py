"""Runs by DVC's queue: each an experiment, several at once, each on cores of its own."""

import io
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from image_pipeline.common.cores import available_cores
from image_pipeline.common.errors import PipelineError
from image_pipeline.experiments.revisions import experiments

PAUSE = 0.5  # seconds between two looks at the queue
LIVES = 3  # how often workers that died are started again without a run that came to its end
# What joblib, and so training and decoding, and what OpenMP take for the number of cores.
CORE_VARIABLES = ("LOKY_MAX_CPU_COUNT", "OMP_NUM_THREADS")


class QueueError(PipelineError):
    """DVC's queue does not do what it should."""


def run_experiments(wanted: Mapping[str, Sequence[str]], jobs: int, word: str) -> list[str]:
    """Run experiments by DVC's queue, and wait for their end.

    What waits in the queue already, or is at work, is not queued again; what failed there before
    is.

    Args:
        wanted: the params that each is to change, as `dvc exp run -S` takes them, by its name.
        jobs: how many run at once; the cores are shared between them.
        word: what to call them beside the progress bar.

    Returns:
        The names of those that failed.

    Raises:
        QueueError: the queue's workers end before their work does.
    """
    from dvc.repo import Repo  # type: ignore[import-untyped]

    with Repo() as repo, tqdm(total=len(wanted), desc=word, unit="run") as bar:
        queue = repo.experiments.celery_queue
        pending, failed, lives = dict(wanted), set[str](), LIVES
        _forget(queue, pending)
        _enqueue(repo, pending)
        while True:
            if pending and not _workers(queue):
                if not lives:
                    raise QueueError(
                        "the queue's workers end before their work does; `dvc queue status` and "
                        f"{os.path.relpath(queue.wdir)}/dvc-exp-worker-*.out tell more"
                    )
                lives -= 1
                _end_lost(queue, pending)
                _enqueue(repo, pending)
                with _environment_of_runs(jobs):
                    queue.start_workers(min(jobs, len(pending)))
            broken = pending.keys() & {done.entry.name for done in queue.iter_failed()}
            for name in broken | (pending.keys() & experiments().keys()):
                del pending[name]
                lives = LIVES
                bar.update()
            failed |= broken
            if not pending:
                return sorted(failed)
            time.sleep(PAUSE)


def _enqueue(repo: Any, wanted: Mapping[str, Sequence[str]]) -> None:
    queue = repo.experiments.celery_queue
    waiting = {entry.name for entry in (*queue.iter_queued(), *queue.iter_active())}
    for name, changes in wanted.items():
        if name not in waiting:
            with redirect_stdout(io.StringIO()):
                repo.experiments.run(queue=True, name=name, params=list(changes))


def _end_lost(queue: Any, wanted: Collection[str]) -> None:
    """Take out of the queue, which has no workers, what was at work when they were killed."""
    for _ in range(2):  # ends what still runs, then marks what has ended as failed
        lost = [entry.name for entry in queue.iter_active() if entry.name in wanted]
        if lost:
            with redirect_stdout(io.StringIO()):
                queue.kill(lost, force=True)
    _forget(queue, wanted)


def _forget(queue: Any, wanted: Collection[str]) -> None:
    """Take out of the queue what failed."""
    if failed := {done.entry.name for done in queue.iter_failed()} & set(wanted):
        queue.remove(failed)


def _workers(queue: Any) -> list[int]:
    """Return the process numbers of the queue's workers that live."""
    import psutil  # type: ignore[import-untyped]

    found = []
    for path in Path(queue.wdir).glob("dvc-exp-worker-*.pid"):
        with suppress(OSError, ValueError, psutil.Error):
            process = psutil.Process(int(path.read_text()))
            if "queue-worker" in process.cmdline():
                found.append(process.pid)
    return found


@contextmanager
def _environment_of_runs(jobs: int) -> Iterator[None]:
    """Give what is started meanwhile its share of the cores, and the code of its own copy.

    Each run has a copy of the project, and `src` is found from its root: whoever edits a file while
    runs wait in the queue does not change them.
    """
    cores = str(max(1, available_cores() // jobs))
    path = os.pathsep.join(filter(None, ("src", os.environ.get("PYTHONPATH"))))
    changed = dict.fromkeys(CORE_VARIABLES, cores) | {"PYTHONPATH": path}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
