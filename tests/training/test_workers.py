"""Worker processes: what they share, and how they end."""

import errno
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from image_pipeline.common.errors import WorkerError
from image_pipeline.training.workers import AWAKE_SECONDS, Steps, Workers, shared_array
from project import child_processes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks safely")


def counting(array: np.ndarray) -> Callable[[int], Steps]:
    """Return the steps of a worker that counts its turns, times its number."""

    def steps(number: int) -> Steps:
        def step() -> None:
            array[number] += number

        while True:
            yield step

    return steps


def test_what_a_worker_writes_is_seen_after_its_turn() -> None:
    array = shared_array((4,), np.int64)
    assert array.tolist() == [0, 0, 0, 0]
    with Workers(3, counting(array)) as workers:
        assert len(workers) == 3
        for turn in range(1, 50):
            workers.start()
            workers.wait()
            assert array.tolist() == [0, turn, 2 * turn, 3 * turn]
    assert len(workers) == 0
    assert not child_processes()


def test_what_is_written_here_is_seen_there() -> None:
    array = shared_array((2, 3), np.float32)

    def steps(_: int) -> Steps:
        while True:
            yield lambda: np.copyto(array[1], array[0] * 2)

    with Workers(1, steps) as workers:
        for value in range(5):
            array[0] = value
            workers.start()
            workers.wait()
            assert array[1].tolist() == [2 * value] * 3


@pytest.mark.parametrize("pause", [0.0, 0.5 * AWAKE_SECONDS, 20 * AWAKE_SECONDS])
def test_a_turn_comes_through_however_long_it_takes(pause: float) -> None:
    array = shared_array((2,), np.int64)

    def steps(number: int) -> Steps:
        for step in counting(array)(number):
            time.sleep(pause)
            yield step

    with Workers(1, steps) as workers:
        for turn in range(1, 10):
            time.sleep(pause * (turn % 3))
            workers.start()
            workers.wait()
            assert array[1] == turn


def test_none_at_all() -> None:
    with Workers(0, counting(np.zeros(1))) as workers:
        workers.start()
        workers.wait()


@pytest.mark.parametrize("shape", [(0,), (2, 0), ()])
def test_shared_arrays_of_no_or_one_value(shape: tuple[int, ...]) -> None:
    assert shared_array(shape, np.float32).shape == shape


def failing(action: Callable[[], object]) -> Callable[[int], Steps]:
    def steps(_: int) -> Steps:
        yield lambda: None
        yield lambda: (action(), None)[1]

    return steps


def kill_me() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def want_memory() -> None:
    raise MemoryError


def divide() -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("action", "error", "said"),
    [
        (kill_me, WorkerError, "a worker process was killed, as the system does when memory runs"),
        (want_memory, MemoryError, "in a worker process"),
        (divide, WorkerError, r"a worker process ended \(exit status 1\); run `dvc repro` again"),
    ],
)
def test_a_worker_that_ends_is_explained(
    action: Callable[[], None],
    error: type[Exception],
    said: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with Workers(2, failing(action)) as workers:
        workers.start()
        workers.wait()
        workers.start()
        with pytest.raises(error, match=said):
            workers.wait()
    assert not child_processes()
    assert ("ZeroDivisionError" in capfd.readouterr().err) == (action is divide)


def test_a_worker_that_ended_before_its_turn_is_explained() -> None:
    with Workers(1, counting(shared_array((2,), np.int64))) as workers:
        os.kill(child_processes()[0], signal.SIGKILL)

        def two_turns() -> None:  # the first may be sent before the end is seen
            for _ in range(2):
                workers.start()
                workers.wait()

        with pytest.raises(WorkerError, match="was killed"):
            two_turns()


def test_a_refused_fork_is_explained_and_ends_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    forks = iter([os.fork, os.fork])

    def fork() -> int:
        for real in forks:
            return real()
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", fork)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    said = r"refuses worker process 3 of 4 \(Resource temporarily unavailable\): .*machine\.cores"
    with pytest.raises(WorkerError, match=said):
        Workers(4, counting(shared_array((5,), np.int64)))
    assert not child_processes()
    assert not gc.get_freeze_count()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == blocked


PARENT = """
import os, sys, time
import numpy as np
from image_pipeline.training.workers import Workers, shared_array

def steps(number):
    while True:
        yield lambda: None

runs = [Workers(2, steps), Workers(1, steps)]
for workers in runs:
    workers.start()
    workers.wait()
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_its_process(number: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == b"ready\n"
        family = child_processes(parent.pid)
        assert len(family) == 3
        parent.send_signal(number)
        parent.wait(timeout=30)
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{process}").exists() for process in family):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_ctrl_c_is_this_processs_to_answer() -> None:
    array = shared_array((2,), np.int64)
    with Workers(1, counting(array)) as workers:
        os.kill(child_processes()[0], signal.SIGINT)
        workers.start()
        workers.wait()
    assert array[1] == 1
