"""Image files in a tar file, decoded on all cores into one file of pixels.

The pixels are written in the images' order, so the number of cores does not change them.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from image_pipeline.common.cores import available_cores
from image_pipeline.common.processes import Processes
from image_pipeline.common.schema import Bits
from image_pipeline.reading.pixels import PixelSettings, decode, error_cause, strict_warnings
from image_pipeline.reading.sixteen_bits import WHITE, fewest_bits

DARK = 1 << 12  # a 16-bit image below it is nearly black
TASK_IMAGES = 256
TASK_BYTES = 1 << 22  # of image files, and of pixels: bounds the memory of a process

Failures = dict[int, str]  # index of each image that could not be decoded -> cause
Highest = dict[int, int]  # index of each image whose file allows 16 bits -> its highest value


@dataclass(frozen=True)
class Decoded:
    """What was found out about the images.

    Attributes:
        failures: the images that could not be decoded.
        highest: of the images whose files allow 16 bits.
        bits: the fewest that hold the highest of all these values, which tell one dark image from
            a camera of fewer bits; 16 without any.
    """

    failures: Failures
    highest: Highest
    bits: Bits

    def describe_bits(self) -> str:
        """Return in one line what is noteworthy about images of 16 bits, if anything is."""
        images, limit = len(self.highest), 1 << self.bits
        if self.bits < 16:
            return (
                f"the values of all {images} images of 16 bits are below {limit}, so "
                f"{limit - 1} is taken for white ({self.bits} bits)"
            )
        dark = sum(value < DARK for value in self.highest.values())
        if 2 * dark <= images:
            return ""
        return (
            f"WARNING: the values of {dark} of {images} images of 16 bits are below {DARK}, but "
            f"others reach {max(self.highest.values())}, so these are nearly black; if {DARK - 1} "
            "is their white, convert them to 8 bits"
        )


def decode_all(
    tar: int,
    offsets: np.ndarray,
    sizes: np.ndarray,
    settings: PixelSettings,
    pixels: BinaryIO,
) -> Decoded:
    """Decode images into an open file, one after the other.

    Those of 16 bits are decoded again if it turns out that the values of all have fewer bits.

    Args:
        tar: the file descriptor of the tar file.
        offsets: of each image file in it, integers `[N]`.
        sizes: of each, in bytes, integers `[N]`.
        settings: the shape of the decoded images, `settings.bytes_per_image` each.
        pixels: the output file. An image that fails leaves zeros.

    Raises:
        PipelineError: a process ended early.
    """
    failures: Failures = {}
    highest: Highest = {}

    def run(indices: np.ndarray, settings: PixelSettings) -> None:
        tasks = (
            (tar, indices[part], offsets[indices[part]], sizes[indices[part]], settings)
            for part in _parts(indices, sizes[indices], settings)
        )
        with (
            Processes(available_cores(), "decodes images") as processes,
            tqdm(total=len(indices), desc="decode", unit="image", unit_scale=True) as bar,
        ):
            for start, content, failed, found in processes.map(run_task, tasks):
                pixels.seek(start * settings.bytes_per_image)
                pixels.write(content)
                failures.update(failed)
                highest.update(found)
                bar.update(len(content) // settings.bytes_per_image)
        pixels.flush()

    run(np.arange(len(sizes)), settings)
    bits = fewest_bits(max(highest.values(), default=WHITE))
    if bits < settings.bits:
        run(np.array(sorted(highest)), replace(settings, bits=bits))
    return Decoded(failures, highest, bits)


def run_task(
    tar: int, indices: np.ndarray, offsets: np.ndarray, sizes: np.ndarray, settings: PixelSettings
) -> tuple[int, bytes, Failures, Highest]:
    """Decode images of consecutive indices.

    Returns:
        The first index, the images' pixels, those that failed, and the highest values in those of
        16 bits.
    """
    failed: Failures = {}
    highest: Highest = {}
    decoded, blank = [], bytes(settings.bytes_per_image)
    with strict_warnings():
        for index, offset, size in zip(
            indices.tolist(), offsets.tolist(), sizes.tolist(), strict=True
        ):
            try:
                image, value = decode(os.pread(tar, size, offset), settings)
                decoded.append(image)
                if value is not None:
                    highest[index] = value
            except MemoryError:
                raise
            except Exception as error:  # Pillow's decoders raise whatever they trip over
                decoded.append(blank)
                failed[index] = error_cause(error)
    return int(indices[0]), b"".join(decoded), failed, highest


def _parts(indices: np.ndarray, sizes: np.ndarray, settings: PixelSettings) -> Iterator[slice]:
    """Divide the images into tasks, each of consecutive indices."""
    max_images = max(1, min(TASK_IMAGES, TASK_BYTES // settings.bytes_per_image))
    start = task_bytes = 0
    for index in range(len(sizes)):
        size = int(sizes[index])
        if index > start and (
            index - start == max_images
            or task_bytes + size > TASK_BYTES
            or indices[index] != indices[index - 1] + 1
        ):
            yield slice(start, index)
            start, task_bytes = index, 0
        task_bytes += size
    if start < len(sizes):
        yield slice(start, len(sizes))
