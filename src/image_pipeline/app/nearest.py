"""The training images that are nearest to an image, by the distance of their pixels."""

from dataclasses import dataclass

import numpy as np

from image_pipeline.tensors.tensor_files import Split

CHUNK_BYTES = 1 << 21  # of images as float32, so that they stay in the processor's cache
MAX_BYTES = 1 << 28  # of images that are searched: half a second's work


@dataclass(frozen=True)
class Neighbour:
    """A training image.

    Attributes:
        number: of the image in the split.
        pixels: uint8 `[C, H, W]`.
        class_name: its class.
    """

    number: int
    pixels: np.ndarray
    class_name: str


def searched(split: Split) -> int:
    """Return how many images, from the first on, are compared: of a very large split not all."""
    return min(len(split.labels), max(1, MAX_BYTES // int(np.prod(split.shape))))


def find_nearest(split: Split, pixels: np.ndarray, count: int) -> list[Neighbour]:
    """Find the images of a split with the least Euclidean distance to one, the nearest first.

    Args:
        split: memory-mapped; some images at a time are made floats.
        pixels: uint8 `[C, H, W]`.
        count: how many to return, at most.
    """
    images = split.images.numpy()[: searched(split)].reshape(-1, pixels.size)
    wanted = pixels.reshape(-1).astype(np.float32)
    step = max(1, CHUNK_BYTES // (4 * pixels.size))
    distances = np.empty(len(images), np.float32)
    for start in range(0, len(images), step):
        difference = images[start : start + step] - wanted
        distances[start : start + step] = np.einsum("ij,ij->i", difference, difference)
    nearest = np.argsort(distances, kind="stable")[:count].tolist()
    names = split.description.class_names
    return [
        Neighbour(number, split.images[number].numpy(), names[int(split.labels[number])])
        for number in nearest
    ]
