"""Identical images, within a split and across splits, in memory that does not grow with the images.

Of every image a record goes to a file: a 16-byte BLAKE2b digest of its pixels, its label and its
split. Records are written in runs, each sorted by the digest's first byte; at the end they are read
back byte by byte, so that a 256th of them is looked at at a time. Two different images of one
digest are not to be expected before 10^19 images: the counts are exact.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import combinations
from typing import BinaryIO

import numpy as np

DIGEST_BYTES = 16
RUN_IMAGES = 1 << 15  # records sorted and written at once
BUCKETS = 1 << 8  # one per value of the digest's first byte
RECORD = np.dtype([("digest", "u1", DIGEST_BYTES), ("label", "<i4"), ("split", "u1")])
NO_LABEL = (np.int32((1 << 31) - 1), np.int32(-1))  # lowest and highest, of no images


@dataclass(frozen=True)
class Shared:
    """What two splits have in common.

    Attributes:
        different: images that occur in both, each counted once however often it occurs.
        images: how many images of either split these are.
        labels_differ: how many of the different images do not have one label throughout.
    """

    different: int
    images: tuple[int, int]
    labels_differ: int


@dataclass(frozen=True)
class Duplicates:
    """Identical images of some splits, which are numbered from 0.

    Attributes:
        copies: of each split, the images that occurred in it before.
        labels_differ: of each split, the different images that have more than one label in it.
        shared: what each pair of splits, the lower number first, has in common.
        seen: of the last split, the images that occur in any other one.
    """

    copies: tuple[int, ...]
    labels_differ: tuple[int, ...]
    shared: dict[tuple[int, int], Shared]
    seen: int


class DuplicateCounter:
    """Counts identical images: `add` them all, then `count`.

    Args:
        file: empty, to write and to read; it takes 21 bytes per image.
        splits: how many there are.
    """

    def __init__(self, file: BinaryIO, splits: int) -> None:
        self._file = file
        self._splits = splits
        self._run = np.empty(RUN_IMAGES, RECORD)
        self._filled = 0
        self._bounds: list[np.ndarray] = []  # of each run, uint32 [BUCKETS + 1]: in records

    def add(self, split: int, images: np.ndarray, labels: np.ndarray) -> None:
        """Count in images of one shape `[n, ...]`, of which n may be 0, and their labels `[n]`."""
        rows = np.ascontiguousarray(images)
        start = 0
        while start < len(rows):
            end = start + min(len(rows) - start, len(self._run) - self._filled)
            digests = b"".join(
                [blake2b(row, digest_size=DIGEST_BYTES).digest() for row in rows[start:end]]
            )
            room = self._run[self._filled : self._filled + end - start]
            room["digest"] = np.frombuffer(digests, np.uint8).reshape(-1, DIGEST_BYTES)
            room["label"] = labels[start:end]
            room["split"] = split
            self._filled += end - start
            start = end
            if self._filled == len(self._run):
                self._write_run()

    def count(self) -> Duplicates:
        """Compare all images that were added."""
        self._write_run()
        pairs = list(combinations(range(self._splits), 2))
        copies, contradicting = np.zeros((2, self._splits), np.int64)
        shared, seen = np.zeros((len(pairs), 4), np.int64), 0
        for found in map(self._distinct, range(BUCKETS)):
            present = found.images > 0
            copies += (found.images - present).sum(axis=0)
            contradicting += (present & (found.lowest < found.highest)).sum(axis=0)
            seen += int(found.images[present[:, :-1].any(axis=1), -1].sum())
            for number, pair in enumerate(pairs):
                both = present[:, pair].all(axis=1)
                lowest, highest = found.lowest[both][:, pair], found.highest[both][:, pair]
                differ = lowest.min(axis=1) < highest.max(axis=1)
                shared[number] += (both.sum(), *found.images[both][:, pair].sum(0), differ.sum())
        return Duplicates(
            tuple(copies.tolist()),
            tuple(contradicting.tolist()),
            {
                pair: Shared(different, (first, second), differ)
                for pair, (different, first, second, differ) in zip(
                    pairs, shared.tolist(), strict=True
                )
            },
            seen,
        )

    def _write_run(self) -> None:
        run = self._run[: self._filled]
        first = run["digest"][:, 0]
        self._file.write(run[np.argsort(first, kind="stable")].tobytes())
        sizes = np.bincount(first, minlength=BUCKETS)
        self._bounds.append(np.concatenate([[0], np.cumsum(sizes)]).astype(np.uint32))
        self._filled = 0

    def _distinct(self, bucket: int) -> "_Distinct":
        """Return the different images whose digests begin with the byte `bucket`."""
        found, waiting, size = _Distinct.none(self._splits), [], 0
        for records in self._records(bucket):
            waiting.append(records)
            size += len(records)
            if size >= RUN_IMAGES:  # in vain, unless very many images are the same
                found, waiting, size = found.with_records(np.concatenate(waiting)), [], 0
        return found.with_records(np.concatenate(waiting)) if waiting else found

    def _records(self, bucket: int) -> Iterator[np.ndarray]:
        run_start = 0
        for bounds in self._bounds:
            start, end = (int(bound) for bound in bounds[bucket : bucket + 2])
            self._file.seek((run_start + start) * RECORD.itemsize)
            yield np.frombuffer(self._file.read((end - start) * RECORD.itemsize), RECORD)
            run_start += int(bounds[-1])


@dataclass(frozen=True)
class _Distinct:
    """Different images, and where they occur.

    Attributes:
        digests: uint64 `[n, 2]`.
        images: int32 `[n, splits]`, how often each occurs.
        lowest, highest: int32 `[n, splits]`, of its labels; NO_LABEL where it does not occur.
    """

    digests: np.ndarray
    images: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray

    @classmethod
    def none(cls, splits: int) -> "_Distinct":
        nothing = np.empty((0, splits), np.int32)
        return cls(np.empty((0, 2), np.uint64), nothing, nothing, nothing)

    def with_records(self, records: np.ndarray) -> "_Distinct":
        """Return these and the images of `records`, merged by digest."""
        here = records["split"][:, None] == np.arange(self.images.shape[1])
        labels = records["label"][:, None]
        digests = np.concatenate(
            [self.digests, np.ascontiguousarray(records["digest"]).view("<u8")]
        )
        if not len(digests):
            return self
        order = np.lexsort(digests.T)
        changes = (digests[order[1:]] != digests[order[:-1]]).any(axis=1)
        starts = np.flatnonzero(np.concatenate([[True], changes]))

        def merged(combine: np.ufunc, old: np.ndarray, new: np.ndarray) -> np.ndarray:
            values: np.ndarray = combine.reduceat(np.concatenate([old, new])[order], starts)
            return values

        lowest, highest = (np.where(here, labels, outside) for outside in NO_LABEL)
        return _Distinct(
            digests[order[starts]],
            merged(np.add, self.images, here.astype(np.int32)),
            merged(np.minimum, self.lowest, lowest),
            merged(np.maximum, self.highest, highest),
        )
