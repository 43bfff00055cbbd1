"""Image files as tasks for several processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from image_pipeline.common.errors import PipelineError
from image_pipeline.common.processes import TASKS_AHEAD, Processes
from image_pipeline.reading import decoding
from image_pipeline.reading.pixels import PixelSettings
from project import child_processes, wait_until


def test_tasks_are_bounded_in_images_and_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "TASK_IMAGES", 3)
    monkeypatch.setattr(decoding, "TASK_BYTES", 10)

    def parts(sizes: list[int], size: int = 1, indices: list[int] | None = None) -> list[list[int]]:
        places = np.array(indices or range(len(sizes)))
        found = decoding._parts(places, np.array(sizes), PixelSettings(1, size, "pad"))
        return [sizes[part] for part in found]

    assert parts([4, 4, 4, 1, 1, 1, 1]) == [[4, 4], [4, 1, 1], [1, 1]]
    assert parts([5, 5, 1]) == [[5, 5], [1]]
    assert parts([20, 1, 20]) == [[20], [1], [20]]
    assert parts([1, 1, 1, 1], size=2) == [[1, 1], [1, 1]]  # 4 bytes of pixels each
    assert parts([1, 1], size=9) == [[1], [1]]
    assert parts([1, 2, 3, 4], indices=[4, 5, 7, 9]) == [[1, 2], [3], [4]]  # with gaps
    assert parts([]) == []


def living(processes: list[int]) -> list[int]:
    """Return those processes that have not ended, nor wait for somebody to take note of it."""
    found = []
    for process in processes:
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "Z":
                found.append(process)
        except OSError:
            continue
    return found


WORK_FOR_EVER = """
from itertools import count
from image_pipeline.common.processes import Processes

with Processes(2, "counts") as processes:
    for _ in processes.map(abs, ((number,) for number in count())):
        print("counted", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_process_outlives_the_one_that_started_it(number: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WORK_FOR_EVER],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "counted\n"
        children = child_processes(process.pid)
        assert len(living(children)) == 2
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does
        else:
            process.send_signal(number)
        told = process.communicate(timeout=60)[1]
        wait_until(lambda: not living(children), "the end of its processes", 60)
        # Of Ctrl-C, only this process has anything to say.
        assert told.count("Traceback") == (number == signal.SIGINT)


def test_what_is_worked_on_ahead_is_bounded() -> None:
    """Memory is flat in the number of images: no task is made before there is room for it."""
    begun = []

    def tasks() -> Iterator[tuple[int]]:
        for number in range(50):
            begun.append(number)
            yield (number,)

    with Processes(2, "counts") as processes:
        for done, found in enumerate(processes.map(abs, tasks())):
            assert found == done
            assert len(begun) - done <= 2 * TASKS_AHEAD + 1
    assert len(begun) == 50


def test_a_process_that_is_killed_is_told() -> None:
    told = "^a process that counts died, most likely because memory ran out; close other programs"
    with Processes(2, "counts") as processes, pytest.raises(PipelineError, match=told):
        list(processes.map(os._exit, [(1,)] * 9))
    assert not child_processes()
