"""Identical images, within a split and across splits.

Memory holds a record of 21 bytes per image: a 16-byte BLAKE2b digest of its pixels, its split and
its label. A collision of digests is not to be expected below 10^19 images, so the counts are exact.
"""

from dataclasses import dataclass
from hashlib import blake2b
from itertools import combinations

import numpy as np

DIGEST_BYTES = 16
# Sorted as bytes, records of identical images are adjacent.
RECORD = np.dtype([("digest", f"S{DIGEST_BYTES}"), ("split", "u1"), ("label", ">u4")])


@dataclass(frozen=True)
class Shared:
    """The images that two splits share.

    Attributes:
        distinct: how many distinct images occur in both.
        images: how many images these are in either split.
        labels_differ: how many of the distinct images have more than one label.
    """

    distinct: int
    images: tuple[int, int]
    labels_differ: int


@dataclass(frozen=True)
class Duplicates:
    """Identical images within and across splits, which are numbered from 0.

    Attributes:
        duplicates: repetitions in each split.
        labels_differ: distinct images with more than one label in each split.
        shared: the images shared by each pair of splits, the lower number first.
        leaked: images of the last split that occur in any other.
    """

    duplicates: tuple[int, ...]
    labels_differ: tuple[int, ...]
    shared: dict[tuple[int, int], Shared]
    leaked: int


class DuplicateCounter:
    """Counts identical images: `add` all of them, then `count`.

    Args:
        splits: how many splits there are.
    """

    def __init__(self, splits: int) -> None:
        self._splits = splits
        self._records = bytearray()

    def add(self, split: int, images: np.ndarray, labels: np.ndarray) -> None:
        """Add images of one shape `[n, ...]`, where n may be 0, and their labels `[n]`."""
        records = np.empty(len(labels), RECORD)
        rows = np.ascontiguousarray(images)
        records["digest"] = [blake2b(row, digest_size=DIGEST_BYTES).digest() for row in rows]
        records["split"] = split
        records["label"] = labels
        self._records += records.tobytes()

    def count(self) -> Duplicates:
        """Return the counts over all images added."""
        np.frombuffer(self._records, f"S{RECORD.itemsize}").sort()  # in place, as bytes
        records = np.frombuffer(self._records, RECORD)
        digests = records["digest"]
        repeated = np.zeros(len(records) + 1, bool)
        repeated[1:-1] = digests[1:] == digests[:-1]
        # Most images occur once and do not count.
        records = records[repeated[1:] | repeated[:-1]]
        image = np.unique(records["digest"], return_inverse=True)[1]
        shape = len(records) and image.max() + 1, self._splits
        cells = image, records["split"]
        images, max_label = np.zeros((2, *shape), np.int64)
        min_label = np.full(shape, 1 << 32)
        np.add.at(images, cells, 1)
        np.minimum.at(min_label, cells, records["label"])
        np.maximum.at(max_label, cells, records["label"])

        present = images > 0
        shared = {}
        for pair in combinations(range(self._splits), 2):
            both = present[:, pair].all(axis=1)
            differ = min_label[both][:, pair].min(axis=1) < max_label[both][:, pair].max(axis=1)
            first, second = images[both][:, pair].sum(axis=0).tolist()
            shared[pair] = Shared(int(both.sum()), (first, second), int(differ.sum()))
        return Duplicates(
            tuple((images - present).sum(axis=0).tolist()),
            tuple((present & (min_label < max_label)).sum(axis=0).tolist()),
            shared,
            int(images[present[:, :-1].any(axis=1), -1].sum()),
        )
