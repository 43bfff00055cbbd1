"""Stratified splits, against values worked out by hand."""

import math

import numpy as np
import pytest

from image_pipeline.common.errors import DataError
from image_pipeline.reading.splitting import stratified_split

LABELS = np.repeat(np.array([2, 0, 1], np.uint8), [10, 60, 30])
NAMES = ("cat", "dog", "fox")


def split_some(
    labels: np.ndarray, names: tuple[str, ...], fraction: float, seed: int
) -> np.ndarray:
    return stratified_split(labels, names, fraction, seed, "tensorize.validation_fraction")


def test_another_seed_selects_others() -> None:
    selected = [split_some(LABELS, NAMES, 0.1, seed).tolist() for seed in (0, 0, 1)]
    assert selected[0] == selected[1] != selected[2]


def test_every_image_of_a_class_is_as_likely() -> None:
    times = sum(split_some(LABELS, NAMES, 0.1, seed).astype(int) for seed in range(2000))
    # 2,000 draws of one in ten: 200 on average, and a standard deviation of 13.
    assert isinstance(times, np.ndarray)
    assert times.min() > 140
    assert times.max() < 260


def test_the_shares_hold_over_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.random.default_rng(0).integers(0, 3, 10_000).astype(np.uint8)
    monkeypatch.setattr("image_pipeline.reading.splitting.BLOCK_IMAGES", 64)
    held_out = split_some(labels, NAMES, 0.13, seed=0)
    expected = [math.floor(0.13 * count + 0.5) for count in np.bincount(labels)]
    assert np.bincount(labels[held_out]).tolist() == expected
    half = len(labels) // 2
    assert held_out[:half].mean() == pytest.approx(0.13, abs=0.001)


@pytest.mark.parametrize(("images", "kept"), [(2, 1), (3, 1), (14, 1), (15, 2)])
def test_at_least_one_image_of_a_small_class_is_held_out(images: int, kept: int) -> None:
    labels = np.array([0] * images + [1] * 20, np.uint8)
    held_out = split_some(labels, ("rare", "common"), 0.1, seed=0)
    assert np.bincount(labels[held_out]).tolist() == [kept, 2]


def test_a_class_too_small_to_be_split_is_an_error() -> None:
    with pytest.raises(DataError, match=r"^class dog: it has a single training image"):
        split_some(np.array([0, 0, 0, 1, 2, 2], np.uint8), NAMES, 0.1, seed=0)


def test_splits_for_two_purposes_are_independent() -> None:
    labels = np.zeros(10_000, np.uint8)
    one, other = (stratified_split(labels, ("a", "b"), 0.2, seed, "key") for seed in (0, (0, 1)))
    # A fifth of a fifth; the standard deviation of the number in common is about 18.
    assert abs(int((one & other).sum()) - 400) < 80
