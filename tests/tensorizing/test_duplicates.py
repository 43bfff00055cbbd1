"""Identical images, against a plain count of their bytes."""

import tracemalloc
from collections import Counter, defaultdict
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_pipeline.tensorizing import duplicates
from image_pipeline.tensorizing.duplicates import DuplicateCounter, Duplicates, Shared

SPLITS = 3
Image = tuple[int, int, int]  # a pixel, a label and a split


def counted(images: list[Image], chunk: int = 5) -> Duplicates:
    """Count images of one pixel, those of one split after the other, some at a time."""
    counter = DuplicateCounter(SPLITS)
    for split in range(SPLITS):
        members = [image for image in images if image[2] == split]
        for start in range(0, len(members), chunk):
            pixels, labels, _ = np.array(members[start : start + chunk]).T
            counter.add(split, pixels.astype(np.uint8)[:, None, None, None], labels)
    return counter.count()


def plainly(images: list[Image]) -> Duplicates:
    """Count the same with dictionaries that hold all."""
    often: list[Counter[int]] = [Counter() for _ in range(SPLITS)]
    labels: list[defaultdict[int, set[int]]] = [defaultdict(set) for _ in range(SPLITS)]
    for pixel, label, split in images:
        often[split][pixel] += 1
        labels[split][pixel].add(label)
    shared = {}
    for first, second in combinations(range(SPLITS), 2):
        both = often[first].keys() & often[second].keys()
        shared[first, second] = Shared(
            len(both),
            (sum(often[first][p] for p in both), sum(often[second][p] for p in both)),
            sum(len(labels[first][p] | labels[second][p]) > 1 for p in both),
        )
    return Duplicates(
        tuple(split.total() - len(split) for split in often),
        tuple(sum(len(found) > 1 for found in split.values()) for split in labels),
        shared,
        sum(often[2][p] for p in often[2] if p in often[0] or p in often[1]),
    )


def test_by_hand() -> None:
    images = [
        *[(1, 0, 0)] * 3,  # three times in split 0, and in split 2 with another label
        (1, 1, 2),
        (2, 0, 1),  # twice in split 1 with two labels, and in split 2
        (2, 1, 1),
        (2, 1, 2),
        (2, 1, 2),
        (3, 0, 0),  # once
        (4, 1, 0),  # in all, with one label
        (4, 1, 1),
        (4, 1, 2),
    ]
    expected = Duplicates(
        duplicates=(2, 1, 1),
        labels_differ=(0, 1, 0),
        shared={
            (0, 1): Shared(1, (1, 1), 0),
            (0, 2): Shared(2, (4, 2), 1),
            (1, 2): Shared(2, (3, 3), 1),
        },
        leaked=4,
    )
    assert counted(images) == expected == plainly(images)


def test_no_images() -> None:
    assert counted([]) == plainly([])


@settings(derandomize=True, deadline=None, max_examples=150, database=None)
@given(
    images=st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 2), st.integers(0, SPLITS - 1)), max_size=60
    ),
    chunk=st.integers(1, 20),
)
def test_any_images_in_chunks_of_any_size(images: list[Image], chunk: int) -> None:
    assert counted(images, chunk) == plainly(images)


def test_every_byte_of_an_image_counts() -> None:
    counter = DuplicateCounter(2)
    image = np.random.default_rng(0).integers(0, 255, (1, 3, 5, 7), np.uint8)
    near = np.repeat(image, image.size, axis=0)
    near.reshape(image.size, -1)[np.diag_indices(image.size)] += 1
    labels = np.zeros(image.size, np.uint8)
    counter.add(0, image, labels[:1])
    counter.add(1, near, labels)
    found = counter.count()
    assert found.duplicates == (0, 0)
    assert found.leaked == 0


@pytest.mark.parametrize("repeats", [1, 2, 1 << 20], ids=["all-different", "pairs", "all-the-same"])
def test_what_is_held_is_some_bytes_per_image(repeats: int) -> None:
    tracemalloc.start()
    counter, chunk, chunks = DuplicateCounter(SPLITS), 1 << 10, 100
    for start in range(0, chunk * chunks, chunk):
        numbers = np.arange(start, start + chunk, dtype="<u4") // repeats
        images = numbers.view(np.uint8).reshape(chunk, 4)
        counter.add(start // chunk % SPLITS, images, np.zeros(chunk, np.uint8))
    held, most = tracemalloc.get_traced_memory()
    found = counter.count()
    counting = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(found.duplicates) == {1: 0, 2: chunk * chunks // 2}.get(
        repeats, chunk * chunks - SPLITS
    )
    assert held < 25 * chunk * chunks
    assert most < 27 * chunk * chunks + (1 << 19)
    # Only images that occur more than once take more when they are compared.
    assert counting < (29 if repeats == 1 else 200) * chunk * chunks + (1 << 19)


def test_digests_that_end_in_zeros_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy ends a text at its last byte that is not zero."""

    class Blake2b:
        def __init__(self, row: np.ndarray, digest_size: int) -> None:
            self._found = row.tobytes().ljust(digest_size, b"\0")

        def digest(self) -> bytes:
            return self._found

    monkeypatch.setattr(duplicates, "blake2b", Blake2b)
    images = np.array([[0, 0], [0, 1], [1, 0], [0, 0]], np.uint8)
    counter = DuplicateCounter(2)
    counter.add(0, images, np.array([0, 256, 1, 1], np.uint16))
    counter.add(1, images[1:2], np.array([256], np.uint16))
    assert counter.count() == Duplicates((1, 0), (1, 0), {(0, 1): Shared(1, (1, 1), 0)}, 1)


def test_a_chunk_may_have_no_image_of_a_split() -> None:
    """As where photographs are so large that a chunk has a few, all of them for training."""
    counter = DuplicateCounter(SPLITS)
    for split, count in ((0, 2), (1, 0)):
        counter.add(split, np.zeros((count, 3, 4, 4), np.uint8), np.zeros(count, np.uint8))
    assert counter.count().duplicates == (1, 0, 0)
