"""Processes that compute beside this one, on memory that they share with it.

Processes, not threads: between two matrix products each thread would wait for Python's global lock,
which on a small batch cost most of what a second core gained. They are forked, so they start in
milliseconds with all that this process has read, and what is written to a shared array is seen by
all. Only Linux forks safely; elsewhere this process is alone.
"""

import gc
import mmap
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn, Self

import numpy as np
import torch
from numpy.typing import DTypeLike

from image_pipeline.common.errors import WorkerError

OUT_OF_MEMORY = 12  # exit status of a worker
AWAKE_SECONDS = 0.0005  # longer than most waits in a step of the flagship, which takes 3 ms
TURN = b"\0"  # what is sent to a worker to have a step done, and back when it is

Step = Callable[[], None]
Steps = Iterator[Step]


def shared_array(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Return an array of zeros that processes forked later see and change, too."""
    count = int(np.prod(shape))
    memory = mmap.mmap(-1, max(1, count * np.dtype(dtype).itemsize))
    return np.frombuffer(memory, dtype, count).reshape(shape)


def shared_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Return a tensor of zeros that processes forked later see and change, too."""
    like = torch.empty(0, dtype=dtype).numpy().dtype
    return torch.from_numpy(shared_array(shape, like))


class Workers:
    """Copies of this process that do one step of theirs each time they are told to.

    A worker that finds its connection closed ends: none outlives this process, however it ends.
    """

    def __init__(self, count: int, steps: Callable[[int], Steps]) -> None:
        """Fork.

        Args:
            count: how many workers; none where the system does not fork safely.
            steps: called once in each with its number, from 1.

        Raises:
            WorkerError: the system refuses.
        """
        self._connections: dict[int, socket.socket] = {}  # by process number
        # The garbage collector would write to every object that there is now, so that the system
        # would have to copy the memory of all, for each worker and here.
        gc.freeze()
        try:
            for number in range(1, count + 1 if sys.platform == "linux" else 1):
                self._fork(number, steps)
        except OSError as error:
            self.close()
            raise WorkerError(
                f"the system refuses worker process {number} of {count} ({error.strerror}): close "
                "other programs, or lower machine.cores, then run `dvc repro` again"
            ) from None

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._connections)

    def start(self) -> None:
        """Have every worker do its next step.

        Raises:
            WorkerError: one has ended.
            MemoryError: for want of memory.
        """
        for process, connection in self._connections.items():
            try:
                connection.send(TURN)
            except OSError:
                self._explain(process)

    def wait(self) -> None:
        """Wait until every worker has done its step.

        Raises:
            WorkerError: one has ended instead.
            MemoryError: for want of memory.
        """
        for process, connection in self._connections.items():
            if not _receive(connection):
                self._explain(process)

    def close(self) -> None:
        """End all workers."""
        for process, connection in self._connections.items():
            connection.close()
            os.kill(process, signal.SIGKILL)  # it has nothing to lose, and may be in a long step
            os.waitpid(process, 0)
        self._connections.clear()
        gc.unfreeze()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _fork(self, number: int, steps: Callable[[int], Steps]) -> None:
        ours, theirs = socket.socketpair()
        # A signal that came to the worker before it has put these aside would have it clean up
        # what is not its own.
        signals = {signal.SIGINT, signal.SIGTERM}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        try:
            process = os.fork()
        except OSError:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            ours.close()
            theirs.close()
            raise
        if not process:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; this process decides
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            for connection in (ours, *self._connections.values()):
                connection.close()
            _serve(theirs, number, steps)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self._connections[process] = ours

    def _explain(self, process: int) -> NoReturn:
        """Raise what tells why a worker has ended."""
        self._connections.pop(process).close()
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if code == OUT_OF_MEMORY:
            raise MemoryError("in a worker process")
        if code == -signal.SIGKILL:
            raise WorkerError(
                "a worker process was killed, as the system does when memory runs out: close other "
                "programs, or lower machine.cores or train.batch_size, then run `dvc repro` again"
            )
        raise WorkerError(f"a worker process ended (exit status {code}); run `dvc repro` again")


def _serve(connection: socket.socket, number: int, steps: Callable[[int], Steps]) -> NoReturn:
    """Do a step at each turn, until there is none or nobody to do it for; then end the process.

    At once: what is registered to run at exit, and what waits in a buffer, is not this process's.
    """
    status = 0
    try:
        for step in steps(number):
            if not _receive(connection):
                break
            step()
            connection.send(TURN)
    except OSError:
        pass  # nobody is there any more
    except MemoryError:
        status = OUT_OF_MEMORY
    except BaseException:
        traceback.print_exc()
        status = 1
    finally:
        os._exit(status)


def _receive(connection: socket.socket) -> bytes:
    """Wait for a turn; return nothing where the other end is closed.

    At first by asking again and again: a core that sleeps meanwhile takes longer to wake up than
    most waits last. Whoever else has work for the core gets it first.
    """
    try:
        end = time.monotonic() + AWAKE_SECONDS
        while time.monotonic() < end:
            try:
                return connection.recv(1, socket.MSG_DONTWAIT)
            except BlockingIOError:
                os.sched_yield()
        return connection.recv(1)
    except OSError:
        return b""
