"""The split and the statistics, against values worked out by hand."""

import math
from pathlib import Path

import numpy as np
import pytest

from image_pipeline.datasets.base import RawSplit
from image_pipeline.datasets.digits import Digits
from image_pipeline.errors import DataError
from image_pipeline.tensor_files import read_split
from image_pipeline.tensorize import PixelStatistics, draw_validation, tensorize

LABELS = np.repeat(np.array([2, 0, 1], np.uint8), [10, 60, 30])
NAMES = ("cat", "dog", "fox")


def whole(split: RawSplit) -> np.ndarray:
    return np.concatenate(list(split.chunks()))


def test_validation_is_drawn_by_class() -> None:
    kept_back = draw_validation(LABELS, NAMES, 0.1, seed=0)
    assert kept_back.dtype == bool
    assert np.bincount(LABELS[kept_back]).tolist() == [6, 3, 1]


def test_another_seed_draws_others() -> None:
    drawn = [draw_validation(LABELS, NAMES, 0.1, seed).tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_every_image_of_a_class_is_as_likely() -> None:
    times = sum(draw_validation(LABELS, NAMES, 0.1, seed).astype(int) for seed in range(2000))
    # 2,000 draws of one in ten: 200 on average, and a standard deviation of 13.
    assert isinstance(times, np.ndarray)
    assert times.min() > 140
    assert times.max() < 260


def test_the_shares_hold_over_many_strata(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.random.default_rng(0).integers(0, 3, 10_000).astype(np.uint8)
    monkeypatch.setattr("image_pipeline.tensorize.STRATUM_IMAGES", 64)
    kept_back = draw_validation(labels, NAMES, 0.13, seed=0)
    expected = [math.floor(0.13 * count + 0.5) for count in np.bincount(labels)]
    assert np.bincount(labels[kept_back]).tolist() == expected
    half = len(labels) // 2
    assert kept_back[:half].mean() == pytest.approx(0.13, abs=0.001)


@pytest.mark.parametrize(("images", "kept"), [(2, 1), (3, 1), (14, 1), (15, 2)])
def test_a_small_class_keeps_back_at_least_one(images: int, kept: int) -> None:
    labels = np.array([0] * images + [1] * 20, np.uint8)
    drawn = draw_validation(labels, ("rare", "common"), 0.1, seed=0)
    assert np.bincount(labels[drawn]).tolist() == [kept, 2]


def test_a_class_too_small_to_be_split_is_told() -> None:
    with pytest.raises(DataError, match=r"^class dog: it has a single training image"):
        draw_validation(np.array([0, 0, 0, 1, 2, 2], np.uint8), NAMES, 0.1, seed=0)


def test_statistics_by_hand() -> None:
    # Channel 0: 0, 0, 255, 255: mean 1/2, deviation 1/2. Channel 1: 51, 51, 51, 255: mean 0.4,
    # deviation sqrt((3 * 0.2^2 + 0.6^2) / 4) = sqrt(0.12). Channel 2 is constant.
    images = np.array(
        [[[[0, 0]], [[51, 51]], [[102, 102]]], [[[255, 255]], [[51, 255]], [[102, 102]]]], np.uint8
    )
    statistics = PixelStatistics(3)
    statistics.add(images[:1])
    statistics.add(images[1:])
    assert statistics.mean() == (0.5, 0.4, 0.4)
    assert statistics.deviation() == (0.5, round(0.12**0.5, 8), 1.0)


def test_tensorize_leaves_the_test_split_whole(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    Digits().fetch(raw, None)
    paths = [tmp_path / f"{name}.safetensors" for name in ("train", "validation", "test")]
    counts = tensorize(Digits(), "digits", raw, 0.1, 0, *paths)
    assert counts == {"train": 1292, "validation": 145, "test": 360}

    train, validation, test = (read_split(path) for path in paths)
    original, original_test = Digits().read(raw)
    assert np.array_equal(test.images.numpy(), whole(original_test))
    assert np.array_equal(test.labels.numpy(), original_test.labels)

    def images_of(*arrays: np.ndarray) -> list[bytes]:
        return sorted(image.tobytes() for array in arrays for image in array)

    together = images_of(train.images.numpy(), validation.images.numpy())
    assert together == images_of(whole(original))

    # The statistics are the training images' alone, and the same in every file.
    pixels = train.images.numpy() / 255
    assert train.description.mean == pytest.approx([pixels.mean()])
    assert train.description.std == pytest.approx([pixels.std()])
    assert train.description == validation.description == test.description
    assert train.description.class_names == tuple("0123456789")
