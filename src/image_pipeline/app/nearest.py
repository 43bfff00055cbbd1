"""Nearest neighbours of an image among the training images, by pixel distance."""

from dataclasses import dataclass

import numpy as np

from image_pipeline.tensors.tensor_files import Split

CHUNK_BYTES = 1 << 21  # of images as float32, so that they stay in the processor's cache
MAX_BYTES = 1 << 28  # of images that are searched, which takes half a second


@dataclass(frozen=True)
class Neighbour:
    """A training image.

    Attributes:
        index: of the image in the split.
        pixels: uint8 `[C, H, W]`.
        class_name: its class.
    """

    index: int
    pixels: np.ndarray
    class_name: str


def num_searched(split: Split) -> int:
    """Return how many images are searched; of a very large split only the first ones."""
    return min(len(split.labels), max(1, MAX_BYTES // int(np.prod(split.shape))))


def find_nearest(split: Split, pixels: np.ndarray, count: int) -> list[Neighbour]:
    """Find the images of a split with the smallest Euclidean distance to one, nearest first.

    Args:
        split: memory-mapped; converted to floats chunk by chunk.
        pixels: uint8 `[C, H, W]`.
        count: maximum number to return.
    """
    images = split.images.numpy()[: num_searched(split)].reshape(-1, pixels.size)
    query = pixels.reshape(-1).astype(np.float32)
    step = max(1, CHUNK_BYTES // (4 * pixels.size))
    distances = np.empty(len(images), np.float32)
    for start in range(0, len(images), step):
        difference = images[start : start + step] - query
        distances[start : start + step] = np.einsum("ij,ij->i", difference, difference)
    names = split.info.class_names
    return [
        Neighbour(index, split.images[index].numpy(), names[int(split.labels[index])])
        for index in np.argsort(distances, kind="stable")[:count].tolist()
    ]
