"""The batches of an epoch: which images, in which lane, changed at random and made ready.

Images of several batches are made ready at once, lane by lane, in the process that computes the
lane. All that is drawn comes from streams named by seed, epoch and place: it matters to no bit who
draws it.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from image_pipeline.augmenting import custom
from image_pipeline.augmenting.augmentation import augment
from image_pipeline.augmenting.randomness import Use, stream
from image_pipeline.modeling.inference import normalise
from image_pipeline.tensors.tensor_files import Split
from image_pipeline.training.lanes import Block, count_lanes, images_of
from image_pipeline.training.params import TrainParams

BLOCK_BYTES = 1 << 24  # of images made ready at once, as float32: enough to amortise, few to cache
CACHED_BYTES = 1 << 20  # of images normalised at once, still in the cache from first to last step


@dataclass(frozen=True)
class Batch:
    """What a step needs: how many images, in how many lanes, and what the lanes are made of.

    Attributes:
        pieces: by lane, its images, labels and seed in this batch and then in those after it.
    """

    images: int
    lanes: int
    pieces: Mapping[int, Iterator[tuple[Tensor, Tensor, int]]]


class Batches:
    """The batches of every epoch.

    Attributes:
        sizes: of each batch of an epoch, in images.
    """

    def __init__(self, split: Split, params: TrainParams) -> None:
        """Choose sizes, and load the augmentation of one's own.

        Raises:
            ParamsError: there is no such augmentation.
        """
        self.sizes = _batch_sizes(len(split.labels), params.batch_size)
        self._split = split
        self._seed = params.seed
        self._settings = params.augmentation
        self._custom = custom.load(params.augmentation.custom)
        self._spaces: dict[int, np.ndarray] = {}  # of each lane, see _prepare

    def epoch(self, epoch: int, blocks_of_lanes: Callable[[int], list[Block]]) -> Iterator[Batch]:
        """Yield an epoch's batches: every training image is in one of them, in random order.

        Args:
            epoch: from 1.
            blocks_of_lanes: says which of so many lanes are to be made ready here.
        """
        order = np.arange(len(self._split.labels), dtype=np.uint32)
        np.random.default_rng(stream(Use.ORDER, self._seed, epoch)).shuffle(order)
        end = 0
        for number, (size, batches) in enumerate(self._blocks()):
            start, end = end, end + size * batches
            indices = order[start:end].reshape(batches, size)
            lanes = count_lanes(size, self._split.shape)
            pieces = {
                lane: self._pieces(epoch, number, lane, indices[:, images_of(lane, lanes, size)])
                for first, count in blocks_of_lanes(lanes)
                for lane in range(first, first + count)
            }
            for _ in range(batches):
                yield Batch(size, lanes, pieces)

    def _blocks(self) -> Iterator[tuple[int, int]]:
        """Yield the size and number of the batches whose images are made ready at once."""
        size, left = self.sizes[0], self.sizes.count(self.sizes[0])
        together = max(1, BLOCK_BYTES // (4 * size * math.prod(self._split.shape)))
        while left:
            yield size, min(together, left)
            left -= min(together, left)
        if self.sizes[-1] != size:
            yield self.sizes[-1], 1

    def _pieces(
        self, epoch: int, block: int, lane: int, indices: np.ndarray
    ) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Yield a lane's images, labels and seed for the layers, batch by batch of a block.

        Args:
            epoch: from 1.
            block: which of the epoch's.
            lane: which of the batches'.
            indices: of the lane's training images, `[batches, images]`.
        """
        batches, count = indices.shape
        place = (self._seed, epoch, block, lane)
        # A block of one batch may be large: its lanes are then made ready one in another's place.
        images = self._prepare(indices.ravel(), place, lane if batches > 1 else -1)
        labels = self._split.labels[torch.from_numpy(indices.astype(np.int64))]
        seeds = stream(Use.LAYERS, *place).generate_state(batches, np.uint64)
        for batch in range(batches):
            part = images[batch * count : (batch + 1) * count]
            yield torch.from_numpy(part), labels[batch], int(seeds[batch])

    def _prepare(self, indices: np.ndarray, place: Sequence[int], where: int) -> np.ndarray:
        """Return these images as the model takes them, float32 `[B, C, H, W]`.

        They lie where those of the same `where` lay before: fresh memory of this size costs more,
        page by page, than what is computed in it.
        """
        if len(self._spaces.get(where, ())) < len(indices):
            self._spaces[where] = np.empty((len(indices), *self._split.shape), np.float32)
        space, images = self._spaces[where][: len(indices)], self._split.images.numpy()
        settings, description = self._settings, self._split.description
        if settings.enabled and len(indices):
            source = stream(Use.AUGMENTATION, *place)
            draws = np.random.default_rng(source)
            augment(images[indices], settings, draws, space, description.mean)
            if settings.custom != "none":
                own_seed = tuple(source.generate_state(4).tolist())
                space[...] = custom.apply(self._custom, space, own_seed)
        at_once = max(1, CACHED_BYTES // space[:1].nbytes)
        for start in range(0, len(indices), at_once):
            part = slice(start, start + at_once)
            pixels = space[part] if settings.enabled else images[indices[part]]
            normalise(pixels, description, out=space[part])
        return space


def _batch_sizes(images: int, size: int) -> list[int]:
    """Return how many images each batch of an epoch has.

    A single one that is left over joins the last batch: batch norm wants more than one.
    """
    sizes = [min(size, images - start) for start in range(0, images, size)]
    if len(sizes) > 1 and sizes[-1] == 1 < size:
        sizes[-2:] = [size + 1]
    return sizes
