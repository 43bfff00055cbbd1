"""Image files in a tar file, decoded on all cores into one file of pixels.

The pixels are written in the images' order, so the number of cores does not change them.
"""

import os
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from image_pipeline.common.cores import available_cores
from image_pipeline.common.processes import Processes
from image_pipeline.reading.pixels import PixelSettings, decode, error_cause, strict_warnings

TASK_IMAGES = 256
TASK_BYTES = 1 << 22  # of image files, and of pixels: bounds the memory of a process

Failures = dict[int, str]  # index of each image that could not be decoded -> cause


def decode_all(
    tar: int,
    offsets: np.ndarray,
    sizes: np.ndarray,
    settings: PixelSettings,
    pixels: BinaryIO,
) -> Failures:
    """Decode images into an open file, one after the other.

    Args:
        tar: the file descriptor of the tar file.
        offsets: of each image file in it, integers `[N]`.
        sizes: of each, in bytes, integers `[N]`.
        settings: the shape of the decoded images, `settings.bytes_per_image` each.
        pixels: the output file. An image that fails leaves zeros.

    Returns:
        The images that failed.

    Raises:
        PipelineError: a process ended early.
    """
    tasks = (
        (tar, part.start, offsets[part], sizes[part], settings) for part in _parts(sizes, settings)
    )
    failures: Failures = {}
    with (
        Processes(available_cores(), "decodes images") as processes,
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
    """Decode the images from index `start` on; return their pixels, and those that failed."""
    failed: Failures = {}
    decoded, blank = [], bytes(settings.bytes_per_image)
    with strict_warnings():
        for index, (offset, size) in enumerate(
            zip(offsets.tolist(), sizes.tolist(), strict=True), start
        ):
            try:
                decoded.append(decode(os.pread(tar, size, offset), settings))
            except MemoryError:
                raise
            except Exception as error:  # Pillow's decoders raise whatever they trip over
                decoded.append(blank)
                failed[index] = error_cause(error)
    return b"".join(decoded), failed


def _parts(sizes: np.ndarray, settings: PixelSettings) -> Iterator[slice]:
    """Divide the images into tasks."""
    max_images = max(1, min(TASK_IMAGES, TASK_BYTES // settings.bytes_per_image))
    start = task_bytes = 0
    for index in range(len(sizes)):
        size = int(sizes[index])
        if index > start and (index - start == max_images or task_bytes + size > TASK_BYTES):
            yield slice(start, index)
            start, task_bytes = index, 0
        task_bytes += size
    if start < len(sizes):
        yield slice(start, len(sizes))
