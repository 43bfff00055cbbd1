"""Identical images, within a split and across splits.

Of every image a record is held, of 21 bytes: a 16-byte BLAKE2b digest of its pixels, its split and
its label. Two different images of one digest are not to be expected before 10^19 images: the counts
are exact.
"""

from dataclasses import dataclass
from hashlib import blake2b
from itertools import combinations

import numpy as np

DIGEST_BYTES = 16
# In the order in which the bytes sort: images that are the same come to lie beside each other.
RECORD = np.dtype([("digest", f"S{DIGEST_BYTES}"), ("split", "u1"), ("label", ">u4")])


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
        splits: how many there are.
    """

    def __init__(self, splits: int) -> None:
        self._splits = splits
        self._records = bytearray()

    def add(self, split: int, images: np.ndarray, labels: np.ndarray) -> None:
        """Count in images of one shape `[n, ...]`, of which n may be 0, and their labels `[n]`."""
        records = np.empty(len(labels), RECORD)
        rows = np.ascontiguousarray(images)
        records["digest"] = [blake2b(row, digest_size=DIGEST_BYTES).digest() for row in rows]
        records["split"] = split
        records["label"] = labels
        self._records += records.tobytes()

    def count(self) -> Duplicates:
        """Compare all images that were added."""
        np.frombuffer(self._records, f"S{RECORD.itemsize}").sort()  # where it is, as mere bytes
        records = np.frombuffer(self._records, RECORD)
        digests = records["digest"]
        same = np.zeros(len(records) + 1, bool)
        same[1:-1] = digests[1:] == digests[:-1]
        # Most images occur once, and are counted nowhere.
        records = records[same[1:] | same[:-1]]
        which = np.unique(records["digest"], return_inverse=True)[1]
        shape = len(records) and which.max() + 1, self._splits
        places = which, records["split"]
        images, highest = np.zeros((2, *shape), np.int64)
        lowest = np.full(shape, 1 << 32)
        np.add.at(images, places, 1)
        np.minimum.at(lowest, places, records["label"])
        np.maximum.at(highest, places, records["label"])

        present = images > 0
        shared = {}
        for pair in combinations(range(self._splits), 2):
            both = present[:, pair].all(axis=1)
            differ = lowest[both][:, pair].min(axis=1) < highest[both][:, pair].max(axis=1)
            first, second = images[both][:, pair].sum(axis=0).tolist()
            shared[pair] = Shared(int(both.sum()), (first, second), int(differ.sum()))
        return Duplicates(
            tuple((images - present).sum(axis=0).tolist()),
            tuple((present & (lowest < highest)).sum(axis=0).tolist()),
            shared,
            int(images[present[:, :-1].any(axis=1), -1].sum()),
        )
