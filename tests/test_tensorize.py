"""The split and the statistics, against values worked out by hand."""

from pathlib import Path

import numpy as np
import pytest

from image_pipeline.datasets.base import RawSplit
from image_pipeline.datasets.digits import Digits
from image_pipeline.errors import DataError
from image_pipeline.tensor_files import read_split
from image_pipeline.tensorize import pixel_statistics, split_validation, tensorize


def numbered_split(labels: list[int]) -> RawSplit:
    """Return images whose pixel is their number."""
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    return RawSplit(images, np.array(labels, np.int64))


def test_the_split_is_drawn_by_class_and_keeps_the_order() -> None:
    split = numbered_split([0] * 60 + [1] * 30 + [2] * 10)
    train, validation = split_validation(split, 0.1, seed=0)
    assert np.bincount(validation.labels).tolist() == [6, 3, 1]
    assert np.bincount(train.labels).tolist() == [54, 27, 9]
    numbers = [part.images.ravel().tolist() for part in (train, validation)]
    assert sorted(numbers[0] + numbers[1]) == list(range(100))  # each image once
    assert numbers == [sorted(part) for part in numbers]
    for part in (train, validation):
        assert np.array_equal(part.labels, split.labels[part.images.ravel()])


def test_another_seed_draws_others() -> None:
    split = numbered_split([0] * 60 + [1] * 30 + [2] * 10)
    drawn = [split_validation(split, 0.1, seed)[1].images.ravel().tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("labels", [[0, 0, 0, 0, 1], [0, 1]])
def test_a_class_too_small_to_be_split_is_told(labels: list[int]) -> None:
    with pytest.raises(DataError, match=r"tensorize\.validation_fraction: 0\.1 cannot be drawn"):
        split_validation(numbered_split(labels), 0.1, seed=0)


def test_statistics_by_hand() -> None:
    # Channel 0: 0, 0, 255, 255: mean 1/2, deviation 1/2. Channel 1: 51, 51, 51, 255: mean 0.4,
    # deviation sqrt((3 * 0.2^2 + 0.6^2) / 4) = sqrt(0.12). Channel 2 is constant.
    images = np.array(
        [[[[0, 0]], [[51, 51]], [[102, 102]]], [[[255, 255]], [[51, 255]], [[102, 102]]]], np.uint8
    )
    mean, std = pixel_statistics(images)
    assert mean == (0.5, 0.4, 0.4)
    assert std == (0.5, round(0.12**0.5, 8), 1.0)


def test_tensorize_leaves_the_test_split_whole(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    Digits().fetch(raw, None)
    paths = [tmp_path / f"{name}.safetensors" for name in ("train", "validation", "test")]
    counts = tensorize("digits", raw, 0.1, 0, *paths)
    assert counts == {"train": 1293, "validation": 144, "test": 360}

    train, validation, test = (read_split(path) for path in paths)
    original, original_test = Digits().read(raw)
    assert np.array_equal(test.images.numpy(), original_test.images)
    assert np.array_equal(test.labels.numpy(), original_test.labels)

    def images_of(*arrays: np.ndarray) -> list[bytes]:
        return sorted(image.tobytes() for array in arrays for image in array)

    together = images_of(train.images.numpy(), validation.images.numpy())
    assert together == images_of(original.images)

    # The statistics are the training images' alone, and the same in every file.
    pixels = train.images.numpy() / 255
    assert train.description.mean == pytest.approx([pixels.mean()])
    assert train.description.std == pytest.approx([pixels.std()])
    assert train.description == validation.description == test.description
    assert train.description.class_names == tuple("0123456789")
