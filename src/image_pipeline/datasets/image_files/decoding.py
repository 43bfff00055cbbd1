"""Image files in a tar file, decoded by all processors into one file of pixels.

Each image has its place in that file, so neither the number of processes nor their order can
change it, and no pixel passes through the process that waits for them. Processes, because Python's
own work on a small image takes longer than decoding it, and threads do that in turn.

    python -m image_pipeline.datasets.image_files.decoding SETTINGS TAR PIXELS

is one of the processes: it ends with its standard input, and so soon after the one that started it,
however that ends.
"""

import heapq
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import IO, TYPE_CHECKING, cast

from image_pipeline.common.cores import available_cores
from image_pipeline.common.errors import PipelineError
from image_pipeline.datasets.image_files.pixels import PixelSettings, cause, decode, quiet_but_wary

if TYPE_CHECKING:
    import numpy as np

TASK_IMAGES = 256
TASK_BYTES = 1 << 22  # of image files, and of pixels: the memory of a process
FEW = 512  # images that are decoded before other processes have started
FIRST = 10  # failures that are kept with their cause

Failure = tuple[int, str]  # the image's number, and the cause


@dataclass(frozen=True)
class Task:
    """Some images that follow each other: the number of the first, and where each one's file is."""

    start: int
    offsets: list[int]
    sizes: list[int]


@dataclass
class Failures:
    """Images that could not be decoded.

    Attributes:
        marks: a byte per image, 1 for those.
        first: the first `FIRST`, with their causes, in order.
    """

    marks: bytearray
    first: list[Failure] = field(default_factory=list)

    def add(self, found: Sequence[Failure]) -> None:
        """Note some more, in any order."""
        for number, _ in found:
            self.marks[number] = 1
        self.first = heapq.nsmallest(FIRST, [*self.first, *found])


def decode_all(
    tar: int,
    offsets: "np.ndarray",
    sizes: "np.ndarray",
    settings: PixelSettings,
    pixels: int,
    workers: int | None = None,
) -> Failures:
    """Decode images into an open file: image `i` begins at `i * settings.bytes_per_image`.

    Args:
        tar: the descriptor of the file that holds the image files.
        offsets: where each begins in it, integers `[N]`.
        sizes: of each, in bytes, integers `[N]`.
        settings: what the images become.
        pixels: the descriptor of the file that is written. An image that fails leaves zeros.
        workers: how many processes decode; as many as there are cores, where it is None.

    Raises:
        PipelineError: a process ended before its work.
    """
    from tqdm import tqdm

    if os.name != "posix" or (workers is None and len(sizes) < FEW):
        number = 1
    else:
        number = available_cores() if workers is None else workers
    tasks = _tasks(offsets, sizes, settings)
    done: Iterator[tuple[int, list[Failure]]]
    if number == 1:
        done = ((len(task.sizes), run_task(task, settings, tar, pixels)) for task in tasks)
    else:
        done = _in_processes(tasks, settings, tar, pixels, number)
    failures = Failures(bytearray(len(sizes)))
    with tqdm(total=len(sizes), desc="decode", unit="image", unit_scale=True) as bar:
        for count, failed in done:
            failures.add(failed)
            bar.update(count)
    return failures


def run_task(task: Task, settings: PixelSettings, tar: int, pixels: int) -> list[Failure]:
    """Decode a task's images into their place; return those that failed."""
    failed, decoded, nothing = [], [], bytes(settings.bytes_per_image)
    with quiet_but_wary():
        for number, (offset, size) in enumerate(
            zip(task.offsets, task.sizes, strict=True), task.start
        ):
            try:
                decoded.append(decode(os.pread(tar, size, offset), settings))
            except MemoryError:
                raise
            except Exception as error:  # Pillow's decoders raise whatever they trip over
                decoded.append(nothing)
                failed.append((number, cause(error)))
    content, position = b"".join(decoded), task.start * settings.bytes_per_image
    while content:  # a full disk takes a part first, and then raises
        written = os.pwrite(pixels, content, position)
        content, position = content[written:], position + written
    return failed


def _tasks(offsets: "np.ndarray", sizes: "np.ndarray", settings: PixelSettings) -> Iterator[Task]:
    most = max(1, min(TASK_IMAGES, TASK_BYTES // settings.bytes_per_image))
    task, content = Task(0, [], []), 0
    for number in range(len(sizes)):
        offset, size = int(offsets[number]), int(sizes[number])
        if task.sizes and (len(task.sizes) == most or content + size > TASK_BYTES):
            yield task
            task, content = Task(number, [], []), 0
        task.offsets.append(offset)
        task.sizes.append(size)
        content += size
    if task.sizes:
        yield task


def _in_processes(
    tasks: Iterator[Task], settings: PixelSettings, tar: int, pixels: int, number: int
) -> Iterator[tuple[int, list[Failure]]]:
    """Hand the tasks to processes, each the next one as soon as it is free.

    One thread for each process hands over and waits; the results come in any order.
    """
    handing = threading.Lock()
    results: queue.SimpleQueue[tuple[int, list[Failure]] | Exception | None] = queue.SimpleQueue()

    def serve(process: "subprocess.Popen[str]") -> None:
        try:
            to, back = cast("IO[str]", process.stdin), cast("IO[str]", process.stdout)
            while True:
                with handing:
                    task = next(tasks, None)
                if task is None:
                    break
                to.write(json.dumps(asdict(task)) + "\n")
                to.flush()
                line = back.readline()
                if not line.endswith("\n"):
                    raise BrokenPipeError
                results.put((len(task.sizes), [(n, why) for n, why in json.loads(line)]))
            to.close()
            results.put(None)
        except BrokenPipeError:
            status = process.wait()
            results.put(
                PipelineError(
                    f"a process that decodes images ended before its time (status {status}), most "
                    "likely for want of memory; close other programs, then run `dvc repro` again"
                )
            )
        except Exception as error:  # raised again in the thread that waits for it
            results.put(error)

    processes: list[subprocess.Popen[str]] = []
    threads: list[threading.Thread] = []
    try:
        for _ in range(number):
            processes.append(_start_process(settings, tar, pixels))
            threads.append(threading.Thread(target=serve, args=processes[-1:], daemon=True))
            threads[-1].start()
        running = number
        while running:
            result = results.get()
            if isinstance(result, Exception):
                raise result
            if result is None:
                running -= 1
            else:
                yield result
    except BaseException:
        for process in processes:
            process.kill()
        raise
    finally:
        for process, thread in zip(processes, threads, strict=True):
            thread.join()
            with suppress(BrokenPipeError), process:  # closes its pipes, and waits for its end
                pass


def _start_process(settings: PixelSettings, tar: int, pixels: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-P", "-m", __name__]
    command += [json.dumps(asdict(settings)), str(tar), str(pixels)]
    # A terminal's Ctrl-C goes to all processes. This one says so; the others, to whom the signal is
    # blocked from their very beginning, end because it does.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="ascii",
            pass_fds=(tar, pixels),
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def main() -> None:
    """Be one of the processes: a task per line of standard input, its failures as the answer."""
    settings = PixelSettings(**json.loads(sys.argv[1]))
    tar, pixels = int(sys.argv[2]), int(sys.argv[3])
    for line in sys.stdin:
        failed = run_task(Task(**json.loads(line)), settings, tar, pixels)
        print(json.dumps(failed), flush=True)


if __name__ == "__main__":
    with suppress(BrokenPipeError, MemoryError):
        main()
        os._exit(0)
    os._exit(1)  # at once and in silence: the other side says what there is to say
