"""The processes of one host that train together, on memory that they share.

Processes, not threads: between two matrix products each thread would wait for Python's global lock,
which on a small batch cost most of what a second core gained. They are forked, so they start in
milliseconds with all that this process has read, and each sees what another writes to a shared
array. Only Linux forks safely; elsewhere the group is this process alone.
"""

import gc
import mmap
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import DTypeLike

from image_pipeline.common.errors import PipelineError
from image_pipeline.common.processes import fork
from image_pipeline.training.process_group import ProcessGroup

OUT_OF_MEMORY = 12  # exit status of a process
SPIN_SECONDS = 0.0005  # longer than most waits in a step of the flagship, which takes 3 ms
SIGNAL = b"\0"


def shared_array(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Return an array of zeros that processes forked later read and write, too."""
    count = int(np.prod(shape))
    memory = mmap.mmap(-1, max(1, count * np.dtype(dtype).itemsize))
    return np.frombuffer(memory, dtype, count).reshape(shape)


def shared_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Return a tensor of zeros that processes forked later read and write, too."""
    like = torch.empty(0, dtype=dtype).numpy().dtype
    return torch.from_numpy(shared_array(shape, like))


class _GroupClosedError(Exception):
    """Rank 0 has ended, or has closed the group."""


class LocalGroup(ProcessGroup):
    """Rank 0, which is this process, and the processes that it forks.

    Results are passed on in shared memory; what is sent is only that they are there. A process that
    finds its connection to rank 0 closed ends: none outlives rank 0, however that ends.
    """

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self._children: dict[int, socket.socket] = {}  # of rank 0, by process number
        self._to_rank_0: socket.socket | None = None  # of the others

    @contextmanager
    def fork(self, main: Callable[[], object]) -> Iterator[None]:
        """Start the other ranks, which call `main` and end; end them when the block ends.

        Raises:
            PipelineError: the system refuses.
        """
        # The garbage collector would write to every object that there is now, and so make the
        # system copy the memory of all of them, for each process and here.
        gc.freeze()
        try:
            for rank in range(1, self.world_size):
                self._start(rank, main)
            yield
        finally:
            for process, connection in self._children.items():
                connection.close()
                os.kill(process, signal.SIGKILL)  # it has nothing to save, and may be at work
                os.waitpid(process, 0)
            self._children.clear()
            gc.unfreeze()

    def gather(self) -> None:
        """Tell rank 0 that this process's results are in shared memory; rank 0 waits for all.

        Raises:
            PipelineError: a process has ended instead.
            MemoryError: so has one, out of memory.
        """
        if self._to_rank_0:
            self._to_rank_0.send(SIGNAL)
        for process, connection in self._children.items():
            if not _receive(connection):
                self._explain(process)

    def broadcast(self) -> None:
        """Wait until rank 0 has come here: its results are in shared memory.

        Raises:
            PipelineError: a process has ended.
            MemoryError: so has one, out of memory.
        """
        if self._to_rank_0 and not _receive(self._to_rank_0):
            raise _GroupClosedError
        for process, connection in self._children.items():
            try:
                connection.send(SIGNAL)
            except OSError:
                self._explain(process)

    def _start(self, rank: int, main: Callable[[], object]) -> None:
        ours, theirs = socket.socketpair()

        def run() -> int:
            for connection in (ours, *self._children.values()):
                connection.close()
            self.rank, self._children, self._to_rank_0 = rank, {}, theirs
            return _run(main)

        try:
            process = fork(run)
        except OSError as error:
            ours.close()
            theirs.close()
            raise PipelineError(
                f"the system refuses process {rank + 1} of {self.world_size} ({error.strerror}): "
                "close other programs, or lower machine.cores, then run `dvc repro` again"
            ) from None
        theirs.close()
        self._children[process] = ours

    def _explain(self, process: int) -> NoReturn:
        """Raise an error that says why a process has ended."""
        self._children.pop(process).close()
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if code == OUT_OF_MEMORY:
            raise MemoryError("in a worker process")
        if code == -signal.SIGKILL:
            raise PipelineError(
                "a worker process was killed, as the system does when memory runs out: close other "
                "programs, or lower machine.cores or train.batch_size, then run `dvc repro` again"
            )
        raise PipelineError(f"a worker process ended (exit status {code}); run `dvc repro` again")


def _run(main: Callable[[], object]) -> int:
    """Call `main` in a new process; return its exit status."""
    try:
        torch.set_num_threads(1)  # where there were more, they did not survive the fork
        main()
    except (_GroupClosedError, OSError):
        pass  # rank 0 has ended
    except MemoryError:
        return OUT_OF_MEMORY
    return 0


def _receive(connection: socket.socket) -> bytes:
    """Wait for a signal; return nothing if the other end is closed.

    It polls at first: a core that sleeps takes longer to wake up than most waits last. Other work
    for the core goes first.
    """
    try:
        end = time.monotonic() + SPIN_SECONDS
        while time.monotonic() < end:
            try:
                return connection.recv(1, socket.MSG_DONTWAIT)
            except BlockingIOError:
                os.sched_yield()
        return connection.recv(1)
    except OSError:
        return b""
