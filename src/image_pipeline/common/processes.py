"""Forked processes: one that runs a function, and a pool that runs one on many tasks.

Processes, because Python's own work on a small image takes longer than decoding it, and threads do
that one at a time. Results come in the order of the tasks, whatever the number of processes.
"""

import itertools
import multiprocessing
import os
import signal
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Self, TypeVar

from image_pipeline.common.errors import PipelineError

TASKS_AHEAD = 2  # for each process
Result = TypeVar("Result")
SIGNALS = {signal.SIGINT, signal.SIGTERM}


def fork(main: Callable[[], int]) -> int:
    """Return the number of a new process that runs a function and ends with its status.

    It has what this process has, and leaves Ctrl-C, which goes to all, to this one. No exit handler
    runs in it, and nothing that is still to be written is: these are this process's.

    Raises:
        OSError: the system refuses another process.
    """
    with _forking():
        if process := os.fork():
            return process
        status = 1
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            status = main()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)


class Processes:
    """A process pool, to be used in a `with` block.

    The processes are forked at the first task, so they have what this process has by then, open
    files too, and start in milliseconds. A pool of one is this process.

    Args:
        number: of processes; one where the system does not fork.
        doing: what they do, for the error message if one dies.
        remedy: what a user can do about it.
    """

    def __init__(self, number: int, doing: str, remedy: str = "run `dvc repro` again") -> None:
        self.number = number if os.name == "posix" else 1
        self._said = (
            f"a process that {doing} died, most likely because memory ran out; close other "
            f"programs, then {remedy}"
        )
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def map(
        self, function: Callable[..., Result], tasks: Iterable[tuple[Any, ...]]
    ) -> Iterator[Result]:
        """Yield what a function returns for each task's arguments, in order.

        At most `TASKS_AHEAD` tasks for each process run ahead, so memory does not grow with tasks.

        Raises:
            PipelineError: a process ended before its work.
        """
        if self.number == 1:
            yield from itertools.starmap(function, tasks)
            return
        waiting: deque[Future[Result]] = deque()
        try:
            for task in tasks:
                waiting.append(self._submit(function, task))
                while waiting and (waiting[0].done() or len(waiting) > self.number * TASKS_AHEAD):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise PipelineError(self._said) from None

    def _submit(self, function: Callable[..., Result], task: tuple[Any, ...]) -> Future[Result]:
        if self._pool:
            return self._pool.submit(function, *task)
        self._pool = ProcessPoolExecutor(self.number, multiprocessing.get_context("fork"), _prepare)
        with _forking():  # which the pool does at its first task
            return self._pool.submit(function, *task)


@contextmanager
def _forking() -> Iterator[None]:
    """Block signals while a process forks: the new one would handle them as if it were this one.

    Python warns about forking beside threads; there are only those of tqdm and OpenBLAS, which no
    child uses.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare() -> None:
    """Prepare a child: leave Ctrl-C, which goes to all, to the parent, and end when that ends."""
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        if parent:
            parent.join()
            os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=end_with_parent, daemon=True).start()
