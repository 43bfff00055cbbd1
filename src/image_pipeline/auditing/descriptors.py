"""Small copies of images, and vectors by which similar images are found.

All of it is exact arithmetic on integers, or on floats that hold integers: the order of a sum, the
number of cores and the processor change nothing.
"""

import math
from dataclasses import dataclass

import numpy as np

SIDE = 32  # pixels, of a small copy
POOLED = 16  # pixels, of what the vectors are computed from
LUMA = (77, 150, 29)  # of 256: the weights of red, green and blue in BT.601
FREQUENCIES = 6  # of the luminance, in each direction
CHROMA_FREQUENCIES = 3
CHROMA_WEIGHT = (
    4  # of the colours beside the luminance; chosen on changed copies of CIFAR-10's training images
)
LEVEL = 127  # of the length of a vector


@dataclass(frozen=True)
class Descriptors:
    """Small copies of images, and their vectors.

    Attributes:
        thumbnails: luminance, uint8 `[N, 32, 32]`.
        even, odd: float32 `[N, D]` and `[N, E]` that hold integers. Together they are a vector of
            length 127 or about it. Of the mirrored image, `odd` has the other sign.
    """

    thumbnails: np.ndarray
    even: np.ndarray
    odd: np.ndarray

    def __len__(self) -> int:
        return len(self.thumbnails)


def describe(images: np.ndarray) -> Descriptors:
    """Describe images uint8 `[N, C, H, W]` of 1 or 3 channels.

    The vector is the discrete cosine transform of the luminance and of two differences of colours,
    at low frequencies and without the mean: so it does not change with the brightness and the
    contrast, and little with noise. High frequencies weigh more, as photographs have less of them.
    """
    channels = images.astype(np.int64)
    if channels.shape[1] == 3:
        red, green, blue = channels.transpose(1, 0, 2, 3)
        luma = (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue) >> 8
        planes = [luma, red - green, 2 * blue - red - green]
    else:
        planes = [channels[:, 0]]
    height, width = images.shape[2:]
    thumbnails = _resized(planes[0], SIDE) // (height * width)
    even, odd = [], []
    for number, plane in enumerate(planes):
        count = CHROMA_FREQUENCIES if number else FREQUENCIES
        pooled = _resized(plane, POOLED) * 16 // (height * width)
        cosines = _cosines(count)
        found = (cosines @ pooled.astype(np.float64) @ cosines.T).astype(np.int64) >> 12
        found *= _weights(count, CHROMA_WEIGHT if number else 0)
        if not number:
            found[:, 0, 0] = 0
        even.append(found[:, :, ::2].reshape(len(images), -1))
        odd.append(found[:, :, 1::2].reshape(len(images), -1))
    vectors = np.concatenate([*even, *odd], axis=1)
    length = np.sqrt((vectors * vectors).sum(axis=1).astype(np.float64))
    scaled = np.rint(vectors * (LEVEL / np.maximum(length, 1))[:, None]).astype(np.float32)
    border = sum(part.shape[1] for part in even)
    return Descriptors(thumbnails.astype(np.uint8), scaled[:, :border], scaled[:, border:])


def _resized(planes: np.ndarray, side: int) -> np.ndarray:
    """Return planes int64 `[N, H, W]` with a side in pixels, times H x W: means of areas."""
    height, width = planes.shape[1:]
    if height == width and height % side == 0:
        step = height // side
        parts: np.ndarray = planes.reshape(-1, side, step, side, step).sum(axis=(2, 4))
        return parts * (side * side)
    rows, columns = _areas(height, side), _areas(width, side)
    exact = rows @ planes.astype(np.float64) @ columns.T  # integers below 2^53
    resized: np.ndarray = exact.astype(np.int64)
    return resized


def _areas(length: int, side: int) -> np.ndarray:
    """Return how much of each of `length` pixels is in each of `side`, in their common unit."""
    start = np.maximum(np.arange(side)[:, None] * length, np.arange(length) * side)
    end = np.minimum(np.arange(1, side + 1)[:, None] * length, np.arange(1, length + 1) * side)
    areas: np.ndarray = np.maximum(end - start, 0).astype(np.float64)
    return areas


def _cosines(count: int) -> np.ndarray:
    """Return the cosine transform's first rows, `[count, POOLED]`, as integers of up to 64."""
    angles = [
        [math.cos(math.pi * (2 * x + 1) * u / (2 * POOLED)) for x in range(POOLED)]
        for u in range(count)
    ]
    rows: np.ndarray = np.rint(np.array(angles) * 64)
    rows[0] = 45
    return rows


def _weights(count: int, chroma: int) -> np.ndarray:
    """Return the weights of the frequencies, int64 `[count, count]`."""
    squares = np.add.outer(np.arange(count) ** 2, np.arange(count) ** 2)
    if chroma:
        weights = [[chroma * math.exp(-s / 18) for s in row] for row in squares]
        weights[0][0] /= 2
    else:
        weights = [[math.sqrt(math.sqrt(s)) * math.exp(-s / 50) for s in row] for row in squares]
    rounded: np.ndarray = np.rint(16 * np.array(weights)).astype(np.int64)
    return rounded
