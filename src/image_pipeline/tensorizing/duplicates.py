"""Identical images, within a split and across splits.

Memory holds a record of 21 bytes per image: a 16-byte BLAKE2b digest of its pixels, its split and
its label. A collision of digests is not to be expected below 10^19 images, so the counts are exact.
"""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

DIGEST_BYTES = 16
# Sorted as bytes, records of identical images are adjacent.
RECORD = np.dtype([("digest", f"S{DIGEST_BYTES}"), ("split", "u1"), ("label", ">u4")])

Table = dict[str, dict[str, int]]  # column -> split -> number


class DuplicateCounter:
    """Counts identical images: `add` all of them, then `count`.

    Args:
        splits: the splits' names, in order.
    """

    def __init__(self, splits: Sequence[str]) -> None:
        self._splits = splits
        self._records = bytearray()

    def add(self, split: str, images: np.ndarray, labels: np.ndarray) -> None:
        """Add images of one shape `[n, ...]`, where n may be 0, and their labels `[n]`."""
        records = np.empty(len(labels), RECORD)
        rows = np.ascontiguousarray(images)
        records["digest"] = [blake2b(row, digest_size=DIGEST_BYTES).digest() for row in rows]
        records["split"] = self._splits.index(split)
        records["label"] = labels
        self._records += records.tobytes()

    def count(self) -> Table:
        """Return the counts over all images added, as columns whose rows are the splits.

        Images are identical if all their pixels are. `duplicates` counts the repetitions within the
        split, and `labels_differ` the distinct images with several labels there. `leaked` counts
        the images that are also in an earlier split. `in_train` counts the images that are also in
        that split, `different_in_train` the distinct ones among them, and `labels_differ_in_train`
        those of these with several labels; likewise for the other splits.
        """
        np.frombuffer(self._records, f"S{RECORD.itemsize}").sort()  # in place, as bytes
        records = np.frombuffer(self._records, RECORD)
        digests = records["digest"]
        repeated = np.zeros(len(records) + 1, bool)
        repeated[1:-1] = digests[1:] == digests[:-1]
        # Most images occur once and do not count.
        records = records[repeated[1:] | repeated[:-1]]
        image = np.unique(records["digest"], return_inverse=True)[1]
        shape = len(records) and image.max() + 1, len(self._splits)
        cells = image, records["split"]
        images, max_label = np.zeros((2, *shape), np.int64)
        min_label = np.full(shape, 1 << 32)
        np.add.at(images, cells, 1)
        np.minimum.at(min_label, cells, records["label"])
        np.maximum.at(max_label, cells, records["label"])

        def by_split(counts: np.ndarray, without: str = "") -> dict[str, int]:
            sums = zip(self._splits, counts.sum(axis=0).tolist(), strict=True)
            return {split: total for split, total in sums if split != without}

        present = images > 0
        earlier = np.cumsum(present, axis=1) > present
        table = {
            "duplicates": by_split(images - present),
            "labels_differ": by_split(present & (min_label < max_label)),
            "leaked": by_split(images * earlier),
        }
        for number, name in enumerate(self._splits):
            other = slice(number, number + 1)
            shared = present & present[:, other]
            low = np.minimum(min_label, min_label[:, other])
            high = np.maximum(max_label, max_label[:, other])
            table[f"in_{name}"] = by_split(images * shared, name)
            table[f"different_in_{name}"] = by_split(shared, name)
            table[f"labels_differ_in_{name}"] = by_split(shared & (low < high), name)
        return table
