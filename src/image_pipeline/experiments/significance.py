"""Significance tests for two classifiers evaluated on the same images, paired by image."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr, bdtrc, bdtrik, ndtri

LEVEL = 0.05  # of significance, two-sided
POWER = 0.8
MAX_EXACT = 10_000  # discordant images; beyond, the exact test has the approximate one's power


@dataclass(frozen=True)
class Metric:
    """A metric of models A and B, with the 95% interval of B minus A and a two-sided p value.

    The last two are None if the data for them are missing.
    """

    a: float
    b: float
    interval: tuple[float, float] | None
    p: float | None

    @property
    def difference(self) -> float:
        """B minus A."""
        return self.b - self.a


def significant(p: float | None) -> bool:
    """Return whether a p value is significant at the 5% level."""
    return p is not None and p < LEVEL


def mcnemar(only_a_correct: int, only_b_correct: int) -> float:
    """Return the two-sided p value of McNemar's exact test.

    If both models are equally good, each image that only one of them gets right is a fair coin
    toss. Source: McNemar, "Note on the sampling error of the difference between correlated
    proportions or percentages" (1947), with the binomial distribution for chi-square.
    """
    discordant = only_a_correct + only_b_correct
    # scipy.stats.binomtest is the same and takes half a second to import.
    return min(1.0, 2.0 * float(bdtr(min(only_a_correct, only_b_correct), discordant, 0.5)))


def accuracy_interval(only_a_correct: int, only_b_correct: int, images: int) -> tuple[float, float]:
    """Return the 95% interval of accuracy B minus accuracy A on the same images.

    Source: Bonett and Price, "Adjusted Wald confidence interval for a difference of binomial
    proportions based on paired data" (2012): one image is added to each of the two counts.
    """
    share_a, share_b = (only_a_correct + 1) / (images + 2), (only_b_correct + 1) / (images + 2)
    difference = share_b - share_a
    variance = (share_b + share_a - difference**2) / (images + 2)
    half = float(-ndtri(LEVEL / 2)) * math.sqrt(variance)
    return max(-1.0, difference - half), min(1.0, difference + half)


def images_needed(only_a_correct: int, only_b_correct: int, images: int) -> int | None:
    """Return how many test images give McNemar's exact test 80% power at the 5% level.

    Source: Connor, "Sample size for testing differences in proportions for the paired-sample
    design" (1987), equation 3. That is for the approximate test; the exact one has a little less
    power, so the number is raised until it is reached.

    Returns:
        The number for a difference of the observed size; None if no difference was observed.
    """
    if only_a_correct == only_b_correct:
        return None
    discordant = (only_a_correct + only_b_correct) / images
    difference = abs(only_a_correct - only_b_correct) / images
    null_quantile = -float(ndtri(LEVEL / 2)) * math.sqrt(discordant)
    power_quantile = float(ndtri(POWER)) * math.sqrt(discordant - difference**2)
    needed = math.ceil((null_quantile + power_quantile) ** 2 / difference**2)
    share = max(only_a_correct, only_b_correct) / (only_a_correct + only_b_correct)
    while needed * discordant < MAX_EXACT and power(needed, discordant, share) < POWER:
        needed = math.ceil(needed * 1.005)
    return needed


def power(images: int, discordant: float, share: float) -> float:
    """Return the power of McNemar's exact test at the 5% level.

    Args:
        images: in the test split.
        discordant: the probability that exactly one model gets an image right.
        share: the probability that this is the better model.
    """
    mean = images * discordant
    reach = 6 * math.sqrt(mean) + 6  # six standard deviations
    first, last = max(1, math.floor(mean - reach)), min(images, math.ceil(mean + reach))
    counts = np.arange(first, last + 1)  # of discordant images
    at_most = bdtr(np.append(first - 1, counts), images, discordant)
    probabilities = np.diff(at_most)
    critical = np.floor(bdtrik(LEVEL / 2, counts, 0.5))  # the worse model's count, at most
    possible = bdtr(critical, counts, 0.5) <= LEVEL / 2  # not with fewer than six images
    rejected = bdtr(critical, counts, share) + bdtrc(counts - critical - 1, counts, share)
    return float((probabilities * rejected)[possible].sum())


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for multiple tests: 5% bounds the family-wise error rate.

    Source: Holm, "A simple sequentially rejective multiple test procedure" (1979).
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(np.asarray(p_values)[order] * factors))
    return [float(value) for value in adjusted]
