"""The significance tests, against statsmodels, scipy, formulas by hand and simulations."""

import numpy as np
import pytest
from scipy.stats import binomtest

from image_pipeline.experiments.significance import (
    accuracy_interval,
    holm,
    images_needed,
    mcnemar,
    power,
)

RNG = np.random.default_rng(0)
TABLES = [
    *((int(RNG.integers(0, 10**size)), int(RNG.integers(0, 10**size))) for size in range(1, 5)),
    *((int(only_a), int(only_b)) for only_a, only_b in RNG.integers(0, 60, (200, 2))),
    (0, 1),
    (0, 12),
]


def test_mcnemar_equals_scipys_binomial_test() -> None:
    for only_a, only_b in TABLES:
        expected = binomtest(only_a, only_a + only_b).pvalue
        assert mcnemar(only_a, only_b) == pytest.approx(expected, abs=1e-9)
    assert mcnemar(0, 0) == 1


def test_holm_equals_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    for count in (1, 2, 10, 1000):
        p_values = RNG.random(count) ** 4
        expected = multitest.multipletests(p_values, method="holm")[1]
        assert holm(p_values.tolist()) == pytest.approx(expected, abs=1e-12)
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_accuracy_interval_by_hand() -> None:
    # Of 98 images, only A gets 1 right and only B 9: shares of 2% and 10% among 100.
    low, high = accuracy_interval(1, 9, 98)
    half = 1.959964 * np.sqrt((0.10 + 0.02 - 0.08**2) / 100)
    assert (low, high) == pytest.approx((0.08 - half, 0.08 + half), abs=1e-6)
    low, high = accuracy_interval(0, 0, 10)
    assert low == -high < 0


def test_images_needed_by_hand() -> None:
    # Connor's formula gives 165,697 for the README's example; the exact test needs a few more.
    needed = images_needed(41, 35, 10_000)
    assert needed is not None
    assert 165_697 < needed < 1.03 * 165_697
    assert needed == images_needed(35, 41, 10_000)
    assert images_needed(7, 7, 10_000) is None
    assert images_needed(0, 0, 10_000) is None


def test_power_by_hand() -> None:
    # Six images, all right for one model only: p = 2 / 64. With five, nothing is significant.
    assert power(6, 1.0, 1.0) == pytest.approx(1.0)
    assert power(5, 1.0, 1.0) == 0.0
    assert power(6, 1.0, 0.5) == pytest.approx(2 / 64)


@pytest.mark.parametrize(
    ("only_a", "only_b", "images"),
    [(41, 35, 10_000), (9, 1, 10_000), (300, 250, 10_000), (20, 10, 360), (5, 0, 2_000)],
)
def test_images_needed_give_80_percent_power(only_a: int, only_b: int, images: int) -> None:
    """Of tests on so many images, simulated here."""
    rng = np.random.default_rng(2)
    needed = images_needed(only_a, only_b, images)
    assert needed is not None
    discordant = rng.binomial(needed, (only_a + only_b) / images, 1_000)
    of_a = rng.binomial(discordant, only_a / (only_a + only_b))
    found = [mcnemar(int(a), int(n - a)) < 0.05 for a, n in zip(of_a, discordant, strict=True)]
    assert 0.75 <= np.mean(found) <= 0.85
