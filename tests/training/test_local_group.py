"""The processes of a host: what they share, and how they end."""

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

from image_pipeline.common.errors import PipelineError
from image_pipeline.training.local_group import SPIN_SECONDS, LocalGroup, shared_array
from project import child_processes, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks safely")


def counting(group: LocalGroup, array: np.ndarray, pause: float = 0.0) -> Callable[[], None]:
    """Return what the other ranks do: at each step, multiply what rank 0 wrote by their rank."""

    def main() -> None:
        while True:
            time.sleep(pause)
            array[group.rank] = array[0] * group.rank
            group.gather()
            group.broadcast()

    return main


@pytest.mark.parametrize(
    ("pause", "steps"), [(0.0, 50), (0.5 * SPIN_SECONDS, 10), (20 * SPIN_SECONDS, 10)]
)
def test_each_sees_what_the_others_wrote_before_a_signal(pause: float, steps: int) -> None:
    """However long it takes."""
    array, group = shared_array((4,), np.int64), LocalGroup(4)
    assert array.tolist() == [0, 0, 0, 0]
    with group.fork(counting(group, array, pause)):
        assert len(child_processes()) == 3
        for step in range(steps):
            time.sleep(pause * (step % 3))
            group.gather()
            assert array.tolist() == [step, step, 2 * step, 3 * step]
            array[0] += 1
            group.broadcast()
    assert group.rank == 0
    assert not child_processes()


def test_a_group_of_one() -> None:
    group = LocalGroup(1)
    with group.fork(lambda: None):
        assert not child_processes()
        group.gather()
        group.broadcast()


def test_a_process_that_is_done_ends() -> None:
    group = LocalGroup(2)
    with group.fork(group.gather):
        group.gather()
    assert not child_processes()


@pytest.mark.parametrize("shape", [(0,), (2, 0), ()])
def test_shared_arrays_of_no_or_one_value(shape: tuple[int, ...]) -> None:
    assert shared_array(shape, np.float32).shape == shape


def kill_me() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def divide() -> None:
    raise ZeroDivisionError


def want_memory() -> None:
    raise MemoryError


@pytest.mark.parametrize(
    ("action", "error", "said"),
    [
        (
            kill_me,
            PipelineError,
            "a worker process was killed, as the system does when memory runs",
        ),
        (want_memory, MemoryError, "in a worker process"),
        (divide, PipelineError, r"a worker process ended \(exit status 1\); run `dvc repro` again"),
    ],
)
def test_a_process_that_ends_is_explained(
    action: Callable[[], None], error: type[Exception], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    group = LocalGroup(3)

    def main() -> None:
        group.gather()
        group.broadcast()
        action()

    with group.fork(main):
        group.gather()
        group.broadcast()
        with pytest.raises(error, match=said):
            group.gather()
    assert not child_processes()
    assert ("ZeroDivisionError" in capfd.readouterr().err) == (action is divide)


def test_a_process_that_ended_before_a_signal_is_explained() -> None:
    group = LocalGroup(2)
    with group.fork(counting(group, shared_array((2,), np.int64))):
        os.kill(child_processes()[0], signal.SIGKILL)

        def steps() -> None:  # what it had sent before may still arrive
            for _ in range(3):
                group.broadcast()
                group.gather()

        with pytest.raises(PipelineError, match="was killed"):
            steps()


def test_a_refused_fork_is_explained_and_ends_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    forks = iter([os.fork, os.fork])

    def fork() -> int:
        for real in forks:
            return real()
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", fork)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    said = r"refuses process 4 of 4 \(Resource temporarily unavailable\): .*machine\.cores"
    group = LocalGroup(4)
    started = group.fork(counting(group, shared_array((5,), np.int64)))
    with pytest.raises(PipelineError, match=said):
        started.__enter__()
    assert not child_processes()
    assert not gc.get_freeze_count()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == blocked


PARENT = """
import time
from image_pipeline.training.local_group import LocalGroup

groups = [LocalGroup(3), LocalGroup(2)]

def main(group):
    while True:
        group.broadcast()
        group.gather()

with groups[0].fork(lambda: main(groups[0])), groups[1].fork(lambda: main(groups[1])):
    for group in groups:
        group.broadcast()
        group.gather()
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_rank_0(number: signal.Signals, tmp_path: Path) -> None:
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
    folders = [Path(f"/proc/{process}") for process in family]
    wait_until(lambda: not any(map(Path.exists, folders)), "the end of its processes", 30)


def test_ctrl_c_is_for_rank_0_to_answer() -> None:
    array, group = shared_array((2,), np.int64), LocalGroup(2)
    with group.fork(counting(group, array)):
        group.gather()
        os.kill(child_processes()[0], signal.SIGINT)
        array[0] = 7
        group.broadcast()
        group.gather()
        assert array[1] == 7
