"""Experiments on DVC's queue: several run at once, each on its own share of the cores."""

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
from image_pipeline.common.processes import fork
from image_pipeline.experiments.dvc_private import drop_orphaned
from image_pipeline.experiments.queue_worker import WORKER, spawn_worker
from image_pipeline.experiments.revisions import experiments

POLL_SECONDS = 0.5
LOCK_TIMEOUT = 600  # seconds to wait for another DVC command
WORKER_TIMEOUT = 10  # seconds until a new worker's process is there
EXIT_LOCKED = 75  # another DVC command holds the lock
BUSY = (
    f"another DVC command has been running in this project for {LOCK_TIMEOUT // 60} minutes; wait "
    "until it ends, then run this again"
)
MAX_RESTARTS = 3  # of workers that died, without a run that ended in between
# The number of cores, for joblib (training and decoding use it) and for OpenMP.
CORE_VARIABLES = ("LOKY_MAX_CPU_COUNT", "OMP_NUM_THREADS")


class Queue:
    """A context manager for DVC's queue and its workers.

    Queued and running experiments outlive this process; those whose workers were killed are queued
    again.
    """

    def __init__(self, jobs: int) -> None:
        """Set how many experiments run at once; they share the cores."""
        self._jobs = jobs
        self._pending: dict[str, tuple[list[str], list[str] | None]] = {}  # params and targets
        self._restarts_left = MAX_RESTARTS

    def __enter__(self) -> Self:
        from dvc.repo import Repo  # type: ignore[import-untyped]

        self._repo = Repo().__enter__()
        self._queue: Any = self._repo.experiments.celery_queue
        return self

    def __exit__(self, *failure: object) -> None:
        if not any(self._queue.iter_queued()):
            self._stop_workers()
        self._repo.__exit__(*failure)

    def add(
        self, wanted: Mapping[str, Sequence[str]], targets: Sequence[str] | None = None
    ) -> None:
        """Queue experiments that are not queued or running; those that failed before are retried.

        Args:
            wanted: changed params, as `dvc exp run -S` takes them, by the experiment's name.
            targets: the stages to run, with those they depend on; None for all.
        """
        stages = None if targets is None else list(targets)
        self._pending |= {name: (list(changes), stages) for name, changes in wanted.items()}
        self._remove_failed(wanted)
        self._enqueue(wanted)

    def poll(self) -> tuple[set[str], set[str]]:
        """Return which of the added experiments have ended since the last call.

        Returns:
            The names of those that succeeded, and of those that failed.

        Raises:
            PipelineError: the workers keep dying.
        """
        if self._pending:
            self._ensure_workers()
        failed = self._pending.keys() & {done.entry.name for done in self._queue.iter_failed()}
        if failed:  # after kills, another run of the same name may still be in the queue
            failed -= self._waiting()
        succeeded = self._pending.keys() & experiments().keys()
        for name in failed | succeeded:
            self._pending.pop(name, None)
            self._restarts_left = MAX_RESTARTS
        return succeeded, failed - succeeded

    def history(self, name: str) -> Path | None:
        """Return the path of a running experiment's learning curves; None if it is not known."""
        from dvc.exceptions import DvcException  # type: ignore[import-untyped]
        from dvc.repo.experiments.executor.base import (  # type: ignore[import-untyped]
            ExecutorInfo,
        )

        for entry in self._queue.iter_active():
            if entry.name == name:
                # DVC truncates the run's info file, then rewrites it: a read may come in between.
                with suppress(OSError, ValueError, DvcException):
                    info = ExecutorInfo.load_json(self._queue.get_infofile_path(entry.stash_rev))
                    return Path(info.root_dir) / paths.HISTORY
        return None

    def kill(self, name: str) -> None:
        """Kill a running experiment and drop it."""
        self._pending.pop(name, None)
        with redirect_stdout(io.StringIO()), suppress(Exception):  # it may have just ended
            self._queue.kill([name], force=True)

    def _waiting(self) -> set[str]:
        """Return the names of the experiments that are queued or running."""
        return {entry.name for entry in (*self._queue.iter_queued(), *self._queue.iter_active())}

    def _enqueue(self, wanted: Collection[str]) -> None:
        waiting = self._waiting()
        for name in wanted:
            if name not in waiting:
                params, targets = self._pending[name]
                with redirect_stdout(io.StringIO()):
                    self._enqueue_one(targets=targets, name=name, params=params)

    def _enqueue_one(self, **options: Any) -> None:
        """Queue an experiment as soon as no other DVC command is running in this project."""
        deadline = time.monotonic() + LOCK_TIMEOUT
        while not _run_uninterrupted(partial(self._repo.experiments.run, queue=True, **options)):
            if time.monotonic() > deadline:
                raise PipelineError(BUSY)
            time.sleep(POLL_SECONDS)

    def _ensure_workers(self) -> None:
        alive = self._workers()
        if not alive:
            if not self._restarts_left:
                raise PipelineError(
                    "the queue's workers keep dying; see `dvc queue status` and "
                    f"{os.path.relpath(self._queue.wdir)}/dvc-exp-worker-*.out"
                )
            self._restarts_left -= 1
            self._remove_orphaned()
            # Without those that ended after the last poll.
            self._enqueue(self._pending.keys() - experiments().keys())
        # Idle workers exit after some seconds. Were they restarted while another is alive, there
        # would never be none, and the runs of killed workers would never be queued again.
        wanted = min(self._jobs, len(self._pending)) if any(self._queue.iter_queued()) else 0
        missing = set(range(1, wanted + 1)) - alive
        with _run_environment(self._jobs):
            for number in missing:
                # start_workers pings the workers and restarts those that do not answer yet.
                spawn_worker(Path(self._queue.wdir), number)
        deadline = time.monotonic() + WORKER_TIMEOUT
        while missing - self._workers() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS / 10)

    def _remove_orphaned(self) -> None:
        """Remove the runs whose workers were killed from the queue, which has no workers now."""
        if lost := [each for each in self._queue.iter_active() if each.name in self._pending]:
            drop_orphaned(self._queue, lost)
        self._remove_failed(self._pending)

    def _remove_failed(self, wanted: Collection[str]) -> None:
        """Remove failed experiments from the queue."""
        failed = [done.entry for done in self._queue.iter_failed() if done.entry.name in wanted]
        if failed:  # not by name: of several of the same name, DVC would remove one
            self._queue.remove({entry.stash_rev for entry in failed})

    def _stop_workers(self) -> None:
        """Let workers end after their runs: an idle one sometimes misses its own signal to."""
        import psutil  # type: ignore[import-untyped]

        for number in self._workers():
            path = Path(self._queue.wdir) / f"dvc-exp-worker-{number}.pid"
            with suppress(OSError, ValueError, psutil.Error):
                psutil.Process(int(path.read_text())).terminate()

    def _workers(self) -> set[int]:
        """Return the numbers of the live workers."""
        import psutil

        found = set()
        for path in Path(self._queue.wdir).glob("dvc-exp-worker-*.pid"):
            with suppress(OSError, ValueError, psutil.Error):
                if WORKER in psutil.Process(int(path.read_text())).cmdline():
                    found.add(int(path.stem.rpartition("-")[2]))
        return found


def run_experiments(wanted: Mapping[str, Sequence[str]], jobs: int, label: str) -> list[str]:
    """Run experiments on DVC's queue, and wait until they have ended.

    Args:
        wanted: changed params, as `dvc exp run -S` takes them, by the experiment's name.
        jobs: how many run at once.
        label: of the progress bar.

    Returns:
        The names of those that failed.

    Raises:
        PipelineError: the queue's workers keep dying.
    """
    all_failed: set[str] = set()
    with Queue(jobs) as queue, tqdm(total=len(wanted), desc=label, unit="run") as bar:
        queue.add(wanted)
        while bar.n < len(wanted):
            succeeded, failed = queue.poll()
            all_failed |= failed
            bar.update(len(succeeded | failed))
            time.sleep(POLL_SECONDS)
    return sorted(all_failed)


def wait_for_dvc() -> None:
    """Wait until no DVC command changes the workspace: the last step of a killed one still may.

    Raises:
        PipelineError: after LOCK_TIMEOUT.
    """
    from dvc.lock import LockError  # type: ignore[import-untyped]
    from dvc.repo import Repo

    deadline = time.monotonic() + LOCK_TIMEOUT
    with Repo() as repo:
        while time.monotonic() < deadline:
            with suppress(LockError), repo.lock:
                return
            time.sleep(POLL_SECONDS)
    raise PipelineError(BUSY)


def _run_uninterrupted(enqueue: Callable[[], object]) -> bool:
    """Queue an experiment; return False if another DVC command holds the lock.

    Meanwhile DVC changes params.yaml, stashes the user's changes and detaches HEAD. So a separate
    process does it, which completes even if this one is killed.

    Raises:
        PipelineError: DVC fails, with its message.
    """
    from dvc.lock import LockError

    if sys.platform != "linux":  # only Linux forks safely
        try:
            enqueue()
        except LockError:
            return False
        return True
    reader, writer = os.pipe()

    def run() -> int:
        os.setsid()  # so that Ctrl-C reaches only the waiting process
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            enqueue()
        except LockError:
            return EXIT_LOCKED
        except BaseException as error:
            os.write(writer, one_line(error).encode())
            return 1
        return 0

    process = fork(run)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as pipe:
        reason = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if status not in (0, EXIT_LOCKED):
        raise PipelineError(f"DVC cannot queue a run: {reason or f'exit status {status}'}")
    return status == 0


@contextmanager
def _run_environment(jobs: int) -> Iterator[None]:
    """Let workers started inside use their share of the cores, and each run its own code.

    A run has its own copy of the project, and the relative `src` is found there: edits made while
    runs wait in the queue do not affect them.
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
