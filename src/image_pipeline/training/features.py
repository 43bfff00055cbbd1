"""What the head of a frozen network learns from: its inputs for all images, computed once.

They are kept in a file beside the checkpoints, under a key of all that determines them: a run that
was killed, or the next one with another seed or learning rate, finds them there. The file is the
SHA-256 of the key and the features, then the features, float32 `[batches, B, F]`: those of the
training images, then those of the validation images, in the batches of `predict`. It is written
through a memory map, so that they need not fit in memory, and is given its name once it is whole.
"""

import hashlib
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from image_pipeline.common.files import PARTIAL_SUFFIX
from image_pipeline.common.locks import lock
from image_pipeline.modeling.inference import BATCH_IMAGES, forward_batch, max_batch_size
from image_pipeline.modeling.model_file import tensors_of
from image_pipeline.tensors.tensor_files import DatasetInfo, Split
from image_pipeline.training.checkpoint import DIGEST_BYTES, loaded_code
from image_pipeline.training.host_group import LONG_TIMEOUT, HostGroup
from image_pipeline.training.loader import TrainLoader
from image_pipeline.training.local_group import LocalGroup, shared_array

KEPT = 3  # files, with this run's own
BATCHES_AT_ONCE = 32  # between two exchanges with other hosts: seconds of work


def head_inputs(
    model: nn.Module, head: nn.Module, images: np.ndarray, info: DatasetInfo
) -> Tensor | None:
    """Return what a network gives to its head, float32 `[B, F]`.

    None if that does not say all: if the head runs more than once, or its result is not the logits.

    Args:
        model: put in evaluation mode.
        head: a layer of it.
        images: uint8 `[B, C, H, W]`.
        info: of the data set.
    """
    calls: list[tuple[Tensor, Tensor]] = []
    hook = head.register_forward_hook(lambda _, values, output: calls.append((values[0], output)))
    try:
        logits = forward_batch(model, images, info)
    finally:
        hook.remove()
    if len(calls) != 1 or calls[0][1] is not logits:
        return None
    return calls[0][0]


def features_key(
    model: nn.Module, head: nn.Module, splits: tuple[Split, Split], settings: Mapping[str, Any]
) -> str:
    """Hash everything that determines the features.

    Args:
        model: the network.
        head: its last layer, which has no influence.
        splits: whose images are read.
        settings: all else, as JSON values.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(json.dumps(asdict(splits[0].info), sort_keys=True).encode())
    for path in loaded_code():
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    of_head = {tensor.data_ptr() for tensor in head.parameters()}
    for name, tensor in tensors_of(model).items():
        if tensor.data_ptr() not in of_head:
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    for split in splits:
        digest.update(str(tuple(split.images.shape)).encode())
        digest.update(split.images.numpy().data)
    return digest.hexdigest()


class FrozenFeatures:
    """The head's inputs for the images of both splits.

    Attributes:
        head: the last layer.
        batches: the split of each batch, 0 or 1, and which of its images it has.
        complete: whether they were read from the file.
    """

    def __init__(
        self,
        model: nn.Module,
        head: nn.Module,
        splits: tuple[Split, Split],
        count: int,
        folder: Path,
        settings: Mapping[str, Any],
    ) -> None:
        """Read the file, or prepare to write it; before processes fork.

        Args:
            model: the network.
            head: its last layer.
            splits: training and validation.
            count: features of an image.
            folder: of the file.
            settings: what determines the features, beside images, weights and code, as JSON values.

        Raises:
            OSError: the file cannot be written, or the disk has no room for it.
        """
        self.head, self._model, self._splits = head, model, splits
        self._key = features_key(model, head, splits, settings)
        self._path = folder / f"{self._key[:32]}.features"
        size = max_batch_size(splits[0].shape, BATCH_IMAGES)
        self.batches = [
            (number, slice(start, start + size))
            for number, split in enumerate(splits)
            for start in range(0, len(split.labels), size)
        ]
        self._first_validation = self.batches.index((1, slice(0, size)))
        self._shape = (len(self.batches), size, count)
        self._partial = folder / f"{self._path.name}{PARTIAL_SUFFIX}"
        self._plan = shared_array((2,), np.bool_)  # see compute
        self._rows: np.ndarray
        folder.mkdir(parents=True, exist_ok=True)
        self.complete = self._read()
        if self.complete:
            return
        self._partial.touch()
        self._lock = lock(self._partial)
        self.complete = self._read()  # which another run may just have written
        if self.complete:
            self._unlock()
        elif self._lock:
            self._allocate()
        else:  # another run is writing the file; this one does not, and does not wait either
            self._rows = shared_array(self._shape, np.float32)

    def compute(
        self,
        local: LocalGroup,
        hosts: HostGroup,
        check: Callable[[bool], AbstractContextManager[None]],
    ) -> None:
        """Compute what is missing, and write the file; every process calls this.

        Args:
            local: the processes of this host.
            hosts: that train together. If one has them all, the others receive them.
            check: `Trainer.check_portability`.
        """
        source = None
        if local.rank == 0:
            with check(True):
                self._compute(0)  # in any case, to look up the operations
            flag = torch.tensor([self.complete])
            complete = [bool(theirs) for [theirs] in hosts.all_gather([flag], timeout=LONG_TIMEOUT)]
            source = complete.index(True) if any(complete) else None
            self._plan[:] = not all(complete), source is None
        local.broadcast()
        incomplete, missing = self._plan
        if not incomplete:
            return
        images = sum(len(split.labels) for split in self._splits)
        with tqdm(total=images, desc="features", unit="image", disable=local.rank > 0) as bar:
            for start in range(0, len(self.batches), BATCHES_AT_ONCE):
                part = range(start, min(start + BATCHES_AT_ONCE, len(self.batches)))
                if missing:
                    for batch in local.partition(hosts.partition(part)):
                        self._compute(batch)
                    local.gather()
                if local.rank == 0:
                    self._exchange(hosts, part, source)
                bar.update(min(images - bar.n, len(part) * self._shape[1]))
        if local.rank == 0 and not self.complete:
            self._write()
        local.broadcast()

    def train_split(self) -> Split:
        """Return the features of the training images, as images `[N, F, 1, 1]` of one pixel."""
        train = self._splits[0]
        features = torch.from_numpy(self._rows).flatten(0, 1)[: len(train.labels), :, None, None]
        return replace(train, images=features)

    @torch.no_grad()
    def predict(self, batch: int) -> Tensor:
        """Return the logits float32 `[B, classes]` of a batch of validation images."""
        _, part = self.batches[self._first_validation + batch]
        count = len(self._splits[1].labels[part])
        logits: Tensor = self.head(
            torch.from_numpy(self._rows[self._first_validation + batch])[:count]
        )
        return logits

    def _compute(self, batch: int) -> None:
        number, part = self.batches[batch]
        images = self._splits[number].images[part].numpy()
        info = self._splits[0].info
        features = head_inputs(self._model, self.head, images, info)
        self._rows[batch, : len(images)] = features

    def _exchange(self, hosts: HostGroup, part: range, source: int | None) -> None:
        """Give this host the batches of a range that others have computed, or one had."""
        if hosts.world_size == 1:
            return
        rows = torch.from_numpy(self._rows[part.start : part.stop])
        for rank, [theirs] in enumerate(hosts.all_gather([rows], timeout=LONG_TIMEOUT)):
            share = hosts.partition(range(len(part)), rank) if source is None else range(len(part))
            if source in (None, rank):
                rows[share.start : share.stop] = theirs[share.start : share.stop]

    def _digest(self) -> bytes:
        digest = hashlib.sha256(self._key.encode())
        digest.update(self._rows.data)
        return digest.digest()

    def _read(self) -> bool:
        """Map the file into memory, where there is one; return whether it can be used."""
        if not self._path.is_file():
            return False
        with self._path.open("rb") as file:
            digest = file.read(DIGEST_BYTES)
        if self._path.stat().st_size == DIGEST_BYTES + 4 * math.prod(self._shape):
            self._rows = np.memmap(self._path, np.float32, "c", DIGEST_BYTES, self._shape)
            if self._digest() == digest:
                return True
        print(
            f"WARNING: {self._path}: these features are damaged; they are computed again.",
            file=sys.stderr,
            flush=True,
        )
        return False

    def _allocate(self) -> None:
        """Make the file that is to be written, of its full size, and map it into memory."""
        size = DIGEST_BYTES + 4 * math.prod(self._shape)
        with self._partial.open("r+b") as file:
            file.truncate(size)
            if hasattr(os, "posix_fallocate"):  # or a full disk would kill the process later
                try:
                    os.posix_fallocate(file.fileno(), 0, size)
                except OSError as error:
                    error.filename = str(self._path)
                    self._partial.unlink()
                    self._unlock()
                    raise
        self._rows = np.memmap(self._partial, np.float32, "r+", DIGEST_BYTES, self._shape)

    def _unlock(self) -> None:
        if self._lock:
            self._lock.close()

    def _write(self) -> None:
        """Give the file its name, once all is on the disk."""
        if not self._lock:
            return
        with self._partial.open("r+b") as file:
            file.write(self._digest())
            file.flush()
            os.fsync(file.fileno())
        self._partial.replace(self._path)
        self._unlock()
        by_age = sorted(self._path.parent.iterdir(), key=lambda path: path.stat().st_mtime)
        for path in by_age[:-KEPT]:
            if unused := lock(path):
                path.unlink(missing_ok=True)
                unused.close()


class FeatureLoader(TrainLoader):
    """The features of the training images in random order, batch by batch, float32 `[B, F]`."""

    def _prepare(self, indices: np.ndarray, place: Sequence[int], buffer: int) -> np.ndarray:
        del place, buffer
        return self._split.images[torch.from_numpy(indices.astype(np.int64))].flatten(1).numpy()
