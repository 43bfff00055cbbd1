"""The tests for paired images, against statsmodels, and against what they promise."""

import numpy as np
import pytest
from scipy.stats import binomtest

from image_pipeline.experiments.paired import (
    accuracy_interval,
    holm,
    images_needed,
    mcnemar,
    power,
)

RNG = np.random.default_rng(0)
TABLES = [
    *((int(RNG.integers(0, 10**size)), int(RNG.integers(0, 10**size))) for size in range(1, 5)),
    *((int(won), int(lost)) for won, lost in RNG.integers(0, 60, (200, 2))),
    (0, 0),
    (0, 1),
    (0, 12),
]


def test_mcnemar_is_the_one_of_statsmodels_and_scipy() -> None:
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    for won, lost in TABLES:
        p = mcnemar(won, lost)
        assert p == pytest.approx(tables.mcnemar([[0, won], [lost, 0]]).pvalue, abs=1e-9)
        if won + lost:
            assert p == pytest.approx(binomtest(won, won + lost).pvalue, abs=1e-9)


def test_holm_is_the_one_of_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    for count in (1, 2, 10, 1000):
        p_values = RNG.random(count) ** 4
        expected = multitest.multipletests(p_values, method="holm")[1]
        assert holm(p_values.tolist()) == pytest.approx(expected, abs=1e-12)
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_the_interval_by_hand() -> None:
    # Of 98 images, 9 won and 1 lost: shares of 10% and 2% among 100.
    low, high = accuracy_interval(9, 1, 98)
    half = 1.959964 * np.sqrt((0.10 + 0.02 - 0.08**2) / 100)
    assert (low, high) == pytest.approx((0.08 - half, 0.08 + half), abs=1e-6)
    low, high = accuracy_interval(0, 0, 10)
    assert low == -high < 0


def test_the_number_of_images_by_hand() -> None:
    # Connor's formula alone gives 165,697 for the README's example; the exact test needs some more.
    needed = images_needed(41, 35, 10_000)
    assert needed is not None
    assert 165_697 < needed < 1.03 * 165_697
    assert needed == images_needed(35, 41, 10_000)
    assert images_needed(7, 7, 10_000) is None
    assert images_needed(0, 0, 10_000) is None


def test_the_power_by_hand() -> None:
    # Six images, each won: found at p = 2 / 64. Of five, no result is significant.
    assert power(6, 1.0, 1.0) == pytest.approx(1.0)
    assert power(5, 1.0, 1.0) == 0.0
    assert power(6, 1.0, 0.5) == pytest.approx(2 / 64)


@pytest.mark.slow
def test_pairs_without_a_difference_are_rarely_called_different() -> None:
    """Of 2,000 pairs of equal models on 10,000 images, 3% to 6% are significant at 5%."""
    rng = np.random.default_rng(1)
    images, found = 10_000, 0
    for _ in range(2_000):
        hard = rng.random(images) < 0.05  # images that a model of this kind gets right or not
        right = ~hard | (rng.random((2, images)) < 0.6)
        won, lost = int((right[1] & ~right[0]).sum()), int((right[0] & ~right[1]).sum())
        found += mcnemar(won, lost) < 0.05
    assert 0.03 <= found / 2_000 <= 0.06


@pytest.mark.slow
@pytest.mark.parametrize(
    ("won", "lost", "images"),
    [(41, 35, 10_000), (9, 1, 10_000), (300, 250, 10_000), (20, 10, 360), (5, 0, 2_000)],
)
def test_a_difference_is_found_in_the_number_of_images_it_takes(
    won: int, lost: int, images: int
) -> None:
    rng = np.random.default_rng(2)
    needed = images_needed(won, lost, images)
    assert needed is not None
    discordant = rng.binomial(needed, (won + lost) / images, 2_000)
    wins = rng.binomial(discordant, won / (won + lost))
    found = sum(mcnemar(int(w), int(n - w)) < 0.05 for w, n in zip(wins, discordant, strict=True))
    assert 0.75 <= found / 2_000 <= 0.85
