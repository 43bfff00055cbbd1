"""Identical images, against a plain count of their bytes."""

import tracemalloc
from collections import Counter, defaultdict
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_pipeline.tensorizing import duplicates
from image_pipeline.tensorizing.duplicates import DuplicateCounter, Table
from refusals import quick

SPLITS = ("a", "b", "c")
Image = tuple[int, int, str]  # a pixel, a label and a split


def counted(images: list[Image], chunk: int = 5) -> Table:
    """Count images of one pixel, those of one split after the other, some at a time."""
    counter = DuplicateCounter(SPLITS)
    for split in SPLITS:
        members = [image[:2] for image in images if image[2] == split]
        for start in range(0, len(members), chunk):
            pixels, labels = np.array(members[start : start + chunk]).T
            counter.add(split, pixels.astype(np.uint8)[:, None, None, None], labels)
    return counter.count()


def plainly(images: list[Image]) -> Table:
    """Count the same with dictionaries that hold all."""
    often: dict[str, Counter[int]] = {split: Counter() for split in SPLITS}
    labels: dict[str, defaultdict[int, set[int]]] = {split: defaultdict(set) for split in SPLITS}
    for pixel, label, split in images:
        often[split][pixel] += 1
        labels[split][pixel].add(label)
    table: Table = {
        "duplicates": {split: often[split].total() - len(often[split]) for split in SPLITS},
        "labels_differ": {
            split: sum(len(found) > 1 for found in labels[split].values()) for split in SPLITS
        },
        "leaked": {
            "a": 0,
            "b": sum(often["b"][p] for p in often["b"] if p in often["a"]),
            "c": sum(often["c"][p] for p in often["c"] if p in often["a"] or p in often["b"]),
        },
    }
    for other in SPLITS:
        table |= {f"{column}_{other}": {} for column in ("in", "different_in", "labels_differ_in")}
    for here, there in permutations(SPLITS, 2):
        both = often[here].keys() & often[there].keys()
        table[f"in_{there}"][here] = sum(often[here][p] for p in both)
        table[f"different_in_{there}"][here] = len(both)
        table[f"labels_differ_in_{there}"][here] = sum(
            len(labels[here][p] | labels[there][p]) > 1 for p in both
        )
    return table


@quick
@given(
    images=st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 2), st.sampled_from(SPLITS)), max_size=60
    ),
    chunk=st.integers(1, 20),
)
def test_any_images_in_chunks_of_any_size(images: list[Image], chunk: int) -> None:
    found, expected = counted(images, chunk), plainly(images)
    assert found == expected
    assert list(found) == list(expected)  # the order of the CSV file's columns


def test_every_byte_of_an_image_counts() -> None:
    counter = DuplicateCounter("ab")
    image = np.random.default_rng(0).integers(0, 255, (1, 3, 5, 7), np.uint8)
    near = np.repeat(image, image.size, axis=0)
    near.reshape(image.size, -1)[np.diag_indices(image.size)] += 1
    labels = np.zeros(image.size, np.uint8)
    counter.add("a", image, labels[:1])
    counter.add("b", near, labels)
    found = counter.count()
    assert found["duplicates"] == found["leaked"] == {"a": 0, "b": 0}


@pytest.mark.parametrize("repeats", [1, 2, 1 << 20], ids=["all-different", "pairs", "all-the-same"])
def test_what_is_held_is_some_bytes_per_image(repeats: int) -> None:
    tracemalloc.start()
    counter, chunk, chunks = DuplicateCounter(SPLITS), 1 << 10, 100
    for start in range(0, chunk * chunks, chunk):
        numbers = np.arange(start, start + chunk, dtype="<u4") // repeats
        images = numbers.view(np.uint8).reshape(chunk, 4)
        counter.add(SPLITS[start // chunk % len(SPLITS)], images, np.zeros(chunk, np.uint8))
    held, most = tracemalloc.get_traced_memory()
    found = counter.count()
    counting = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(found["duplicates"].values()) == {1: 0, 2: chunk * chunks // 2}.get(
        repeats, chunk * chunks - len(SPLITS)
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
    images: list[Image] = [(0, 0, "a"), (1, 256, "a"), (2, 1, "a"), (0, 1, "a"), (1, 256, "b")]
    pixels = {0: [0, 0], 1: [0, 1], 2: [1, 0]}
    counter = DuplicateCounter(SPLITS)
    for pixel, label, split in images:
        counter.add(split, np.array([pixels[pixel]], np.uint8), np.array([label], np.uint16))
    assert counter.count() == plainly(images)


def test_a_chunk_may_have_no_image_of_a_split() -> None:
    """As where photographs are so large that a chunk has a few, all of them for training."""
    counter = DuplicateCounter(SPLITS)
    for split, count in (("a", 2), ("b", 0)):
        counter.add(split, np.zeros((count, 3, 4, 4), np.uint8), np.zeros(count, np.uint8))
    assert counter.count()["duplicates"] == {"a": 1, "b": 0, "c": 0}
