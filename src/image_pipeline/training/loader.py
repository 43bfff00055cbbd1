"""The batches of an epoch: which images, in which micro-batch, augmented and normalised.

Images of several batches are prepared at once, micro-batch by micro-batch, in the process that
computes it. All random numbers come from streams named by seed, epoch and place, so results do not
depend on which process draws them.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from image_pipeline.augmenting import custom
from image_pipeline.augmenting.augmentation import augment
from image_pipeline.augmenting.randomness import RngStream, fold_in
from image_pipeline.modeling.inference import normalise
from image_pipeline.tensors.tensor_files import Split
from image_pipeline.training.microbatching import microbatch_slice, num_microbatches
from image_pipeline.training.params import TrainParams

CHUNK_BYTES = 1 << 24  # of images prepared at once, as float32: enough to amortise, few to cache
CACHED_BYTES = 1 << 20  # of images normalised at once, which stay in the cache meanwhile


@dataclass(frozen=True)
class MicroBatch:
    """What a forward and backward pass needs.

    Attributes:
        index: its number in the batch.
        images: normalised, float32 `[B, C, H, W]`.
        labels: int64 `[B]`.
        seed: of the random numbers of its layers.
    """

    index: int
    images: Tensor
    labels: Tensor
    seed: int


@dataclass(frozen=True)
class Batch:
    """What a step needs.

    Attributes:
        size: images.
        num_microbatches: on all processes together.
        microbatches: of this process, prepared as they are iterated over.
    """

    size: int
    num_microbatches: int
    microbatches: Iterable[MicroBatch]


class TrainLoader:
    """The training images in random order, batch by batch.

    Attributes:
        batch_sizes: of an epoch, in images.
        max_microbatches: of a batch.
    """

    def __init__(self, split: Split, params: TrainParams) -> None:
        """Choose the batch sizes, and load the custom augmentation.

        Raises:
            ParamsError: there is no such augmentation, or the images lack the colours for it.
        """
        params.augmentation.check_channels(split.shape[0])
        self.batch_sizes = _batch_sizes(len(split.labels), params.batch_size)
        self.max_microbatches = num_microbatches(max(self.batch_sizes), split.shape)
        self._split = split
        self._seed = params.seed
        self._settings = params.augmentation
        self._custom = custom.load(params.augmentation.custom)
        self._buffers: dict[int, np.ndarray] = {}  # of each micro-batch, see _prepare

    def epoch(self, epoch: int, own_microbatches: Callable[[int], range]) -> Iterator[Batch]:
        """Yield an epoch's batches, which have every training image once.

        Args:
            epoch: from 1.
            own_microbatches: says which of a number of micro-batches this process computes.
        """
        order = np.arange(len(self._split.labels), dtype=np.uint32)
        np.random.default_rng(fold_in(RngStream.ORDER, self._seed, epoch)).shuffle(order)
        end = 0
        for chunk, (size, batches) in enumerate(self._chunks()):
            start, end = end, end + size * batches
            indices = order[start:end].reshape(batches, size)
            count = num_microbatches(size, self._split.shape)
            columns = []
            for index in own_microbatches(count):
                images = indices[:, microbatch_slice(index, count, size)]
                columns.append(self._microbatches(epoch, chunk, index, images))
            for _ in range(batches):
                yield Batch(size, count, (next(column) for column in columns))

    def _chunks(self) -> Iterator[tuple[int, int]]:
        """Yield the size and number of the batches whose images are prepared at once."""
        size, left = self.batch_sizes[0], self.batch_sizes.count(self.batch_sizes[0])
        at_once = max(1, CHUNK_BYTES // (4 * size * math.prod(self._split.shape)))
        while left:
            yield size, min(at_once, left)
            left -= min(at_once, left)
        if self.batch_sizes[-1] != size:
            yield self.batch_sizes[-1], 1

    def _microbatches(
        self, epoch: int, chunk: int, index: int, images: np.ndarray
    ) -> Iterator[MicroBatch]:
        """Yield the micro-batch of this index of each batch of a chunk.

        Args:
            epoch: from 1.
            chunk: its number in the epoch.
            index: of the micro-batches in their batches.
            images: numbers of their training images, `[batches, images]`.
        """
        batches, count = images.shape
        place = (self._seed, epoch, chunk, index)
        # A chunk of one batch may be large: its micro-batches then share one buffer.
        prepared = self._prepare(images.ravel(), place, index if batches > 1 else -1)
        labels = self._split.labels[torch.from_numpy(images.astype(np.int64))]
        seeds = fold_in(RngStream.LAYERS, *place).generate_state(batches, np.uint64)
        for batch in range(batches):
            part = prepared[batch * count : (batch + 1) * count]
            yield MicroBatch(index, torch.from_numpy(part), labels[batch], int(seeds[batch]))

    def _prepare(self, indices: np.ndarray, place: Sequence[int], buffer: int) -> np.ndarray:
        """Return these training images augmented and normalised, float32 `[B, C, H, W]`.

        They overwrite what the same buffer held before: fresh memory of this size costs more, page
        by page, than what is computed in it.
        """
        if len(self._buffers.get(buffer, ())) < len(indices):
            self._buffers[buffer] = np.empty((len(indices), *self._split.shape), np.float32)
        out, images = self._buffers[buffer][: len(indices)], self._split.images.numpy()
        settings, info = self._settings, self._split.info
        if settings.enabled and len(indices):
            source = fold_in(RngStream.AUGMENTATION, *place)
            augment(images[indices], settings, np.random.default_rng(source), out, info.mean)
            if settings.custom != "none":
                seed = tuple(source.generate_state(4).tolist())
                out[...] = custom.apply(self._custom, out, seed)
        at_once = max(1, CACHED_BYTES // out[:1].nbytes)
        for start in range(0, len(indices), at_once):
            part = slice(start, start + at_once)
            pixels = out[part] if settings.enabled else images[indices[part]]
            normalise(pixels, info, out=out[part])
        return out


def _batch_sizes(images: int, size: int) -> list[int]:
    """Return how many images each batch of an epoch has.

    A single one that is left over joins the last batch: batch norm needs more than one.
    """
    sizes = [min(size, images - start) for start in range(0, images, size)]
    if len(sizes) > 1 and sizes[-1] == 1 < size:
        sizes[-2:] = [size + 1]
    return sizes
