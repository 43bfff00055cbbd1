"""Near-duplicates: the same picture in another size, crop, brightness, mirrored or recompressed.

For each image, the most similar others are found by their descriptors, all against all. Each pair
is then aligned and its fine structure is compared (`agreement`). All 1s in MNIST have nearly the
same one, so a pair counts only if it agrees much better than either of its images does with the
most similar of a sample of the others.
"""

from dataclasses import dataclass

import numpy as np

from image_pipeline.auditing.alignment import agreement
from image_pipeline.auditing.descriptors import LEVEL, Descriptors
from image_pipeline.common.processes import Processes

NEIGHBOURS = 4  # that are compared with an image
MIN_SIMILARITY = 0.65  # of descriptors: their cosine
REFERENCES, REFERENCE_SHARE = 2048, 16  # in the sample: so many, or one image in so many
CONTRASTED = 4  # references that a pair is held against
ROWS, COLUMNS, PAIRS = 256, 8192, 512  # worked on at once
MIN_AGREEMENT = 0.78  # these two were chosen on changed copies of CIFAR-10's training images, on
CONTRAST_POWER = 4  # pairs of them by eye, and on MNIST's training images, which have next to none


@dataclass(frozen=True)
class Pairs:
    """Near-duplicates, the nearest ones first.

    Attributes:
        first, second: numbers of images, int64 `[P]`; first < second.
        distance: 1 minus their agreement, float32 `[P]`.
        mirrored: whether one is the other's mirror image, bool `[P]`.
    """

    first: np.ndarray
    second: np.ndarray
    distance: np.ndarray
    mirrored: np.ndarray


@dataclass(frozen=True)
class _Search:
    images: Descriptors
    references: np.ndarray


_search: _Search  # what the processes, which are forked, share


def find_near_duplicates(images: Descriptors, processes: Processes) -> Pairs:
    """Find near-duplicates; the same ones on any number of processes, which must be new."""
    global _search
    count = len(images)
    number = min(count, max(REFERENCES, count // REFERENCE_SHARE))
    _search = _Search(images, np.arange(number) * count // number)
    rows = ((start, min(start + ROWS, count)) for start in range(0, count, ROWS))
    found = list(processes.map(_neighbours, rows))
    ends = np.concatenate(found).astype(np.int64)
    keys = np.unique(ends.min(axis=1) * count + ends.max(axis=1))
    first, second = np.divmod(keys, count)
    agreed, mirrored = _compare(first, second, processes)
    kept = agreed >= MIN_AGREEMENT
    first, second, agreed, mirrored = (v[kept] for v in (first, second, agreed, mirrored))
    rivals = _best_reference(first, second, processes)
    kept = 1 - agreed <= (1 - rivals) ** CONTRAST_POWER
    order = np.flatnonzero(kept)[np.argsort(1 - agreed[kept], kind="stable")]
    return Pairs(first[order], second[order], np.maximum(1 - agreed, 0)[order], mirrored[order])


def _similarity(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the dot product of the descriptors of all rows and columns, or of their mirror images.

    Sums of less than 2^24 are exact in float32, so BLAS may add them in any order.
    """
    images = _search.images
    found: np.ndarray = images.odd[rows] @ images.odd[columns].T
    np.abs(found, out=found)
    found += images.even[rows] @ images.even[columns].T
    return found


def _neighbours(start: int, end: int) -> np.ndarray:
    """Return pairs `[P, 2]` of images in a range and their most similar others."""
    rows, count = np.arange(start, end), len(_search.images)
    wanted = -(-2 * NEIGHBOURS * len(_search.references) // count)
    sample = _similarity(rows, _search.references)
    sample[rows[:, None] == _search.references] = 0
    if wanted == 1:
        least = sample.max(axis=1)
    else:
        place = max(sample.shape[1] - wanted, 0)
        least = np.partition(sample, place, axis=1)[:, place]
    least = np.maximum(least, np.float32(MIN_SIMILARITY * LEVEL**2))
    parts = []
    for left in range(0, count, COLUMNS):
        columns = np.arange(left, min(left + COLUMNS, count))
        found = _similarity(rows, columns)
        row, column = np.divmod(np.flatnonzero(found >= least[:, None]), len(columns))
        parts.append((row, column + left, found[row, column]))
    row, column, found = (np.concatenate(part) for part in zip(*parts, strict=True))
    other = column != row + start
    row, column, found = row[other], column[other], found[other]
    order = np.lexsort((column, -found, row))
    row, column = row[order], column[order]
    rank = np.arange(len(row)) - np.searchsorted(row, row)
    near = rank < NEIGHBOURS
    return np.stack([row[near] + start, column[near]], axis=1)


def _compare(
    first: np.ndarray, second: np.ndarray, processes: Processes
) -> tuple[np.ndarray, np.ndarray]:
    tasks = (
        (first[start : start + PAIRS], second[start : start + PAIRS])
        for start in range(0, len(first), PAIRS)
    )
    parts = list(processes.map(_compare_some, tasks))
    if not parts:
        return np.zeros(0, np.float32), np.zeros(0, bool)
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def _compare_some(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    images = _search.images
    mirrored = (images.odd[first] * images.odd[second]).sum(axis=1) < 0
    a, b = images.thumbnails[first], images.thumbnails[second]
    b[mirrored] = b[mirrored][:, :, ::-1]
    return agreement(a, b), mirrored


def _best_reference(first: np.ndarray, second: np.ndarray, processes: Processes) -> np.ndarray:
    """Return how well the images of each pair agree at best with a few references, at least 0.

    The best but one counts, as the sample may have another copy of the same picture.
    """
    members, places = np.unique(np.concatenate([first, second]), return_inverse=True)
    starts = range(0, len(members), ROWS)
    parts = list(processes.map(_references, ((members[s : s + ROWS],) for s in starts)))
    if not parts:
        return np.zeros(0, np.float32)
    references = np.concatenate(parts)
    agreed, _ = _compare(np.repeat(members, CONTRASTED), references.ravel(), processes)
    agreed = agreed.reshape(references.shape)
    agreed[references == members[:, None]] = 0
    rival = np.maximum(np.sort(agreed, axis=1)[:, -2], 0)[places]
    best: np.ndarray = np.maximum(rival[: len(first)], rival[len(first) :])
    return best


def _references(members: np.ndarray) -> np.ndarray:
    """Return the references most similar to some images, `[n, CONTRASTED]`."""
    sample = _similarity(members, _search.references)
    sample[members[:, None] == _search.references] = -1
    chosen = np.argsort(-sample, axis=1, kind="stable")[:, :CONTRASTED]
    missing = CONTRASTED - chosen.shape[1]
    chosen = np.pad(chosen, ((0, 0), (0, max(0, missing))), mode="edge")
    references: np.ndarray = _search.references[chosen]
    return references
