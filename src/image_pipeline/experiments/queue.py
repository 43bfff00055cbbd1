"""Runs by DVC's queue: each an experiment, several at once, each on cores of its own."""

import io
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

from tqdm import tqdm

from image_pipeline.common import paths
from image_pipeline.common.cores import available_cores
from image_pipeline.common.errors import PipelineError, one_line
from image_pipeline.experiments.revisions import experiments

PAUSE = 0.5  # seconds between two looks at the queue
PATIENCE = 600  # seconds, with another DVC command
START = 10  # seconds until a worker that was started is seen
LOCKED = 75  # exit status: another DVC command is at work
BUSY = (
    f"another DVC command has been at work in this project for {PATIENCE // 60} minutes; wait for "
    "its end, then run this again"
)
LIVES = 3  # how often workers that died are started again without a run that came to its end
# What joblib, and so training and decoding, and what OpenMP take for the number of cores.
CORE_VARIABLES = ("LOKY_MAX_CPU_COUNT", "OMP_NUM_THREADS")


class QueueError(PipelineError):
    """DVC's queue does not do what it should."""


class Queue:
    """DVC's queue, and workers that take from it. As a context manager.

    What waits in it or is at work outlives this process; what was at work when its workers were
    killed is queued anew.
    """

    def __init__(self, jobs: int) -> None:
        """Say how many run at once; the cores are shared between them."""
        self._jobs = jobs
        self._changes: dict[str, tuple[list[str], list[str] | None]] = {}  # what is wanted, by name
        self._lives = LIVES

    def __enter__(self) -> Self:
        from dvc.repo import Repo  # type: ignore[import-untyped]

        self._repo = Repo().__enter__()
        self._queue: Any = self._repo.experiments.celery_queue
        return self

    def __exit__(self, *failure: object) -> None:
        self._repo.__exit__(*failure)

    def add(
        self, wanted: Mapping[str, Sequence[str]], targets: Sequence[str] | None = None
    ) -> None:
        """Queue experiments, but for those that wait or are at work; what failed before is tried.

        Args:
            wanted: the params that each is to change, as `dvc exp run -S` takes them, by its name.
            targets: the stages that are asked for, with what they depend on; None for all.
        """
        stages = None if targets is None else list(targets)
        self._changes |= {name: (list(changes), stages) for name, changes in wanted.items()}
        self._forget(wanted)
        self._enqueue(wanted)

    def ended(self) -> tuple[set[str], set[str]]:
        """Return what has ended of the experiments that were added, since the last call.

        Returns:
            The names of those that ended well, and of those that failed.

        Raises:
            QueueError: the workers end before their work does.
        """
        if self._changes:
            self._keep_workers()
        failed = self._changes.keys() & {done.entry.name for done in self._queue.iter_failed()}
        well = self._changes.keys() & experiments().keys()
        for name in failed | well:
            self._changes.pop(name, None)
            self._lives = LIVES
        return well, failed - well

    def history(self, name: str) -> Path | None:
        """Return the curves that a run at work is writing; None where it has none yet."""
        from dvc.exceptions import DvcException  # type: ignore[import-untyped]

        for entry in self._queue.iter_active():
            if entry.name == name:
                # DVC empties a run's notes before it writes them anew: they may be read between.
                with suppress(OSError, ValueError, DvcException):
                    root = self._queue._load_info(entry.stash_rev).root_dir
                    return Path(root) / paths.HISTORY
        return None

    def give_up(self, name: str) -> None:
        """End a run, and forget it."""
        self._changes.pop(name, None)
        with redirect_stdout(io.StringIO()), suppress(Exception):  # it may just have ended
            self._queue.kill([name], force=True)

    def _enqueue(self, wanted: Collection[str]) -> None:
        waiting = {entry.name for entry in (*self._queue.iter_queued(), *self._queue.iter_active())}
        for name in wanted:
            if name not in waiting:
                changes, targets = self._changes[name]
                with redirect_stdout(io.StringIO()):
                    self._run_later(targets=targets, name=name, params=changes)

    def _run_later(self, **asked: Any) -> None:
        """Queue an experiment, when no other DVC command is at work in this project."""
        end = time.monotonic() + PATIENCE
        while not _to_its_end(partial(self._repo.experiments.run, queue=True, **asked)):
            if time.monotonic() > end:
                raise QueueError(BUSY)
            time.sleep(PAUSE)

    def _keep_workers(self) -> None:
        alive = self._workers()
        if not alive:
            if not self._lives:
                raise QueueError(
                    "the queue's workers end before their work does; `dvc queue status` and "
                    f"{os.path.relpath(self._queue.wdir)}/dvc-exp-worker-*.out tell more"
                )
            self._lives -= 1
            self._end_lost()
            self._enqueue(self._changes)
        # Without work a worker ends after some seconds. If each were started anew while another
        # lives, what was lost with those before them would never be missed.
        wanted = min(self._jobs, len(self._changes)) if any(self._queue.iter_queued()) else 0
        missing = set(range(1, wanted + 1)) - alive
        with _environment_of_runs(self._jobs):
            for number in missing:
                # start_workers asks those there are and starts one anew that does not answer yet.
                self._queue._spawn_worker(number)
        end = time.monotonic() + START
        while missing - self._workers() and time.monotonic() < end:
            time.sleep(PAUSE / 10)

    def _end_lost(self) -> None:
        """Take out of the queue, which has no workers, what was at work when they were killed.

        `dvc queue kill` would do, but what it kills stays at work in it until the system has
        reaped the process, which in a container without an init never happens.
        """
        lost = {e: e.name for e in self._queue.iter_active() if e.name in self._changes}
        if lost:
            with redirect_stdout(io.StringIO()):
                self._queue._try_to_kill_tasks(lost, force=True)
            self._queue._mark_inactive_tasks_failure(lost)
        self._forget(self._changes)

    def _forget(self, wanted: Collection[str]) -> None:
        """Take out of the queue what failed."""
        if failed := {done.entry.name for done in self._queue.iter_failed()} & set(wanted):
            self._queue.remove(failed)

    def _workers(self) -> set[int]:
        """Return the numbers of the workers that live."""
        import psutil  # type: ignore[import-untyped]

        found = set()
        for path in Path(self._queue.wdir).glob("dvc-exp-worker-*.pid"):
            with suppress(OSError, ValueError, psutil.Error):
                if "queue-worker" in psutil.Process(int(path.read_text())).cmdline():
                    found.add(int(path.stem.rpartition("-")[2]))
        return found


def run_experiments(wanted: Mapping[str, Sequence[str]], jobs: int, word: str) -> list[str]:
    """Run experiments by DVC's queue, and wait for their end.

    Args:
        wanted: the params that each is to change, as `dvc exp run -S` takes them, by its name.
        jobs: how many run at once.
        word: what to call them beside the progress bar.

    Returns:
        The names of those that failed.

    Raises:
        QueueError: the queue's workers end before their work does.
    """
    all_failed: set[str] = set()
    with Queue(jobs) as queue, tqdm(total=len(wanted), desc=word, unit="run") as bar:
        queue.add(wanted)
        while bar.n < len(wanted):
            well, failed = queue.ended()
            all_failed |= failed
            bar.update(len(well | failed))
            time.sleep(PAUSE)
    return sorted(all_failed)


def wait_for_dvc() -> None:
    """Wait until no DVC command changes the workspace: a killed one's last step may still do so.

    Raises:
        QueueError: one goes on for too long.
    """
    from dvc.lock import LockError  # type: ignore[import-untyped]
    from dvc.repo import Repo

    end = time.monotonic() + PATIENCE
    with Repo() as repo:
        while time.monotonic() < end:
            with suppress(LockError), repo.lock:
                return
            time.sleep(PAUSE)
    raise QueueError(BUSY)


def _to_its_end(queue_one: Callable[[], object]) -> bool:
    """Have DVC queue an experiment; tell whether it could, for other DVC commands.

    Meanwhile DVC changes params.yaml, has the user's own changes in a stash and HEAD detached. So
    it is done by a process that goes on to the end when this one is killed.

    Raises:
        QueueError: DVC refuses.
    """
    from dvc.lock import LockError

    if sys.platform != "linux":  # only Linux forks safely
        try:
            queue_one()
        except LockError:
            return False
        return True
    reader, writer = os.pipe()
    if not (process := os.fork()):
        status = 1
        try:
            os.setsid()  # Ctrl-C is for the process that waits
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            queue_one()
            status = 0
        except LockError:
            status = LOCKED
        except BaseException as error:
            os.write(writer, one_line(error).encode())
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as said:
        why = said.read()
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if status not in (0, LOCKED):
        raise QueueError(f"DVC cannot queue a run: {why or f'exit status {status}'}")
    return status == 0


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
