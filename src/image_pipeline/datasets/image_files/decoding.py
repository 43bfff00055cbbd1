"""Image files in a tar file, decoded by all processors into one file of pixels.

Processes, because Python's own work on a small image takes longer than decoding it, and threads do
that in turn. What they decode is written in the images' order, so their number cannot change it.
"""

import heapq
import itertools
import multiprocessing
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from image_pipeline.common.cores import available_cores
from image_pipeline.common.errors import PipelineError
from image_pipeline.datasets.image_files.pixels import PixelSettings, cause, decode, quiet_but_wary

TASK_IMAGES = 256
TASK_BYTES = 1 << 22  # of image files, and of pixels: the memory of a process
TASKS_AHEAD = 2  # for each process
FIRST = 10  # failures that are kept with their cause
SIGNALS = {signal.SIGINT, signal.SIGTERM}

Failure = tuple[int, str]  # the image's number, and the cause
Task = tuple[int, int, np.ndarray, np.ndarray, PixelSettings]  # what `run_task` takes
Decoded = tuple[bytes, list[Failure]]  # pixels, and the images among them that failed


@dataclass
class Failures:
    """Images that could not be decoded.

    Attributes:
        marks: a byte per image, 1 for those.
        first: the first `FIRST`, with their causes, in order.
    """

    marks: bytearray
    first: list[Failure] = field(default_factory=list)


def decode_all(
    tar: int,
    offsets: np.ndarray,
    sizes: np.ndarray,
    settings: PixelSettings,
    pixels: BinaryIO,
    workers: int | None = None,
) -> Failures:
    """Decode images into an open file, one after the other.

    Args:
        tar: the descriptor of the file that holds the image files.
        offsets: where each begins in it, integers `[N]`.
        sizes: of each, in bytes, integers `[N]`.
        settings: what the images become, `settings.bytes_per_image` each.
        pixels: the file that is written. An image that fails leaves zeros.
        workers: how many processes decode; as many as there are cores, where it is None.

    Raises:
        PipelineError: a process ended before its work.
    """
    number = (workers or available_cores()) if os.name == "posix" else 1
    tasks = (
        (tar, part.start, offsets[part], sizes[part], settings) for part in _parts(sizes, settings)
    )
    done = (run_task(*task) for task in tasks) if number == 1 else _in_processes(tasks, number)
    failures = Failures(bytearray(len(sizes)))
    with tqdm(total=len(sizes), desc="decode", unit="image", unit_scale=True) as bar:
        for content, failed in done:
            pixels.write(content)
            for image, _ in failed:
                failures.marks[image] = 1
            failures.first = heapq.nsmallest(FIRST, [*failures.first, *failed])
            bar.update(len(content) // settings.bytes_per_image)
    pixels.flush()
    return failures


def run_task(
    tar: int, start: int, offsets: np.ndarray, sizes: np.ndarray, settings: PixelSettings
) -> Decoded:
    """Decode the images from number `start` on; return their pixels, and those that failed."""
    failed, decoded, nothing = [], [], bytes(settings.bytes_per_image)
    with quiet_but_wary():
        for number, (offset, size) in enumerate(
            zip(offsets.tolist(), sizes.tolist(), strict=True), start
        ):
            try:
                decoded.append(decode(os.pread(tar, size, offset), settings))
            except MemoryError:
                raise
            except Exception as error:  # Pillow's decoders raise whatever they trip over
                decoded.append(nothing)
                failed.append((number, cause(error)))
    return b"".join(decoded), failed


def _parts(sizes: np.ndarray, settings: PixelSettings) -> Iterator[slice]:
    """Cut the images into tasks."""
    most = max(1, min(TASK_IMAGES, TASK_BYTES // settings.bytes_per_image))
    start = content = 0
    for number in range(len(sizes)):
        size = int(sizes[number])
        if number > start and (number - start == most or content + size > TASK_BYTES):
            yield slice(start, number)
            start, content = number, 0
        content += size
    if start < len(sizes):
        yield slice(start, len(sizes))


def _in_processes(tasks: Iterator[Task], number: int) -> Iterator[Decoded]:
    """Have the tasks run by processes, some ahead; give what they return, in their order.

    They are forked: so they have the open file, and start in milliseconds.
    """
    pool = ProcessPoolExecutor(number, multiprocessing.get_context("fork"), _prepare)
    waiting: deque[Future[Decoded]] = deque()
    try:
        with _forking():
            waiting.extend(pool.submit(run_task, *task) for task in itertools.islice(tasks, 1))
        for task in tasks:
            waiting.append(pool.submit(run_task, *task))
            if len(waiting) > number * TASKS_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise PipelineError(
            "a process that decodes images ended before its time, most likely for want of memory; "
            "close other programs, then run `dvc repro` again"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _forking() -> Iterator[None]:
    """Hold back signals while the pool forks, which it does when it is given its first task.

    A signal that came to a process before it is prepared would end it as it ends this one, with
    words and a cleaning up. Python warns of forking beside threads; there are only those of tqdm
    and OpenBLAS, which no process takes up.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare() -> None:
    """Prepare a process: leave Ctrl-C, which goes to all, to the one that forked; end with it."""
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        if parent:
            parent.join()
            os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=end_with_parent, daemon=True).start()
