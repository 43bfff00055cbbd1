"""Image files in a tar file, decoded by all processors into one file of pixels.

What they decode is written in the images' order, so the number of processors cannot change it.
"""

import os
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from image_pipeline.common.cores import available_cores
from image_pipeline.common.processes import Processes
from image_pipeline.datasets.image_files.pixels import PixelSettings, cause, decode, quiet_but_wary

TASK_IMAGES = 256
TASK_BYTES = 1 << 22  # of image files, and of pixels: the memory of a process

Failures = dict[int, str]  # of each image that could not be decoded: its number, and the cause


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

    Returns:
        The images that failed.

    Raises:
        PipelineError: a process ended before its work.
    """
    tasks = (
        (tar, part.start, offsets[part], sizes[part], settings) for part in _parts(sizes, settings)
    )
    failures: Failures = {}
    with (
        Processes(workers or available_cores(), "decodes images") as processes,
        tqdm(total=len(sizes), desc="decode", unit="image", unit_scale=True) as bar,
    ):
        for content, failed in processes.map(run_task, tasks):
            pixels.write(content)
            failures |= failed
            bar.update(len(content) // settings.bytes_per_image)
    pixels.flush()
    return failures


def run_task(
    tar: int, start: int, offsets: np.ndarray, sizes: np.ndarray, settings: PixelSettings
) -> tuple[bytes, Failures]:
    """Decode the images from number `start` on; return their pixels, and those that failed."""
    failed: Failures = {}
    decoded, nothing = [], bytes(settings.bytes_per_image)
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
                failed[number] = cause(error)
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
