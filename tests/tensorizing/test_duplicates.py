"""Identical images, against a plain count of their bytes."""

import io
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
    counter = DuplicateCounter(io.BytesIO(), SPLITS)
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
        copies=(2, 1, 1),
        labels_differ=(0, 1, 0),
        shared={
            (0, 1): Shared(1, (1, 1), 0),
            (0, 2): Shared(2, (4, 2), 1),
            (1, 2): Shared(2, (3, 3), 1),
        },
        seen=4,
    )
    assert counted(images) == expected == plainly(images)


def test_no_images() -> None:
    assert counted([]) == plainly([])


@settings(derandomize=True, deadline=None, max_examples=150, database=None)
@given(
    images=st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 2), st.integers(0, SPLITS - 1)), max_size=60
    ),
    run=st.integers(1, 20),
)
def test_any_images_in_runs_of_any_size(images: list[Image], run: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "RUN_IMAGES", run)
        assert counted(images) == plainly(images)


def test_every_byte_of_an_image_counts() -> None:
    counter = DuplicateCounter(io.BytesIO(), 2)
    image = np.random.default_rng(0).integers(0, 255, (1, 3, 5, 7), np.uint8)
    near = np.repeat(image, image.size, axis=0)
    near.reshape(image.size, -1)[np.diag_indices(image.size)] += 1
    labels = np.zeros(image.size, np.uint8)
    counter.add(0, image, labels[:1])
    counter.add(1, near, labels)
    found = counter.count()
    assert found.copies == (0, 0)
    assert found.seen == 0


@pytest.mark.parametrize("different", [True, False], ids=["all-different", "all-the-same"])
def test_what_is_held_does_not_grow_with_the_images(
    different: bool, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "RUN_IMAGES", 512)
    labels = np.zeros(512, np.uint8)

    def peak(runs: int) -> int:
        path = tmp_path_factory.mktemp("held") / "digests"
        with path.open("w+b") as file:
            tracemalloc.start()
            counter = DuplicateCounter(file, SPLITS)
            for run in range(runs):
                numbers = np.arange(run * 512, (run + 1) * 512, dtype="<u4") * different
                counter.add(0, numbers.view(np.uint8).reshape(512, 4), labels)
            assert sum(counter.count().copies) == (0 if different else runs * 512 - 1)
            held = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return held - sum(bounds.nbytes for bounds in counter._bounds)

    # In runs of 512, their bounds are 2 bytes per image; in runs of 32,768 a thirtieth of a byte.
    assert duplicates.BUCKETS * 4 / (1 << 15) < 0.04
    # The least of three: what the test's own process does besides is traced, too.
    few, many = (min(peak(runs) for _ in range(3)) for runs in (8, 80))
    assert many < 1.5 * few


def test_a_chunk_may_have_no_image_of_a_split() -> None:
    """As where photographs are so large that a chunk has a few, all of them for training."""
    counter = DuplicateCounter(io.BytesIO(), SPLITS)
    for split, count in ((0, 2), (1, 0)):
        counter.add(split, np.zeros((count, 3, 4, 4), np.uint8), np.zeros(count, np.uint8))
    assert counter.count().copies == (1, 0, 0)
