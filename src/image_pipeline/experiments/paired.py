"""Are two classifiers different? Tests on images that both have judged, each paired with itself."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import bdtr, bdtrc, bdtrik, ndtri

LEVEL = 0.05  # of significance, two-sided
POWER = 0.8
MANY = 10_000  # images won or lost: with so many the exact test finds all but what others find


def mcnemar(won: int, lost: int) -> float:
    """Return the two-sided p value of McNemar's exact test.

    Where both models are equally good, an image that only one of them gets right is won or lost
    like the toss of a coin. Source: McNemar, "Note on the sampling error of the difference between
    correlated proportions or percentages" (1947), with the binomial distribution for chi-square.

    Args:
        won: images that only the second model gets right.
        lost: images that only the first one gets right.
    """
    # scipy.stats.binomtest is the same and takes half a second to import.
    return min(1.0, 2.0 * float(bdtr(min(won, lost), won + lost, 0.5)))


def accuracy_interval(won: int, lost: int, images: int) -> tuple[float, float]:
    """Return the 95% interval of the difference of two accuracies on the same images.

    Source: Bonett and Price, "Adjusted Wald confidence interval for a difference of binomial
    proportions based on paired data" (2012): an image is added to each of the two counts.
    """
    won_share, lost_share = (won + 1) / (images + 2), (lost + 1) / (images + 2)
    difference = won_share - lost_share
    variance = (won_share + lost_share - difference**2) / (images + 2)
    half = float(-ndtri(LEVEL / 2)) * math.sqrt(variance)
    return max(-1.0, difference - half), min(1.0, difference + half)


def images_needed(won: int, lost: int, images: int) -> int | None:
    """Return how many test images show a difference of this size in 80% of such comparisons, at 5%.

    Source: Connor, "Sample size for testing differences in proportions for the paired-sample
    design" (1987), equation 3; then more images until the exact test, which finds a little less
    than the approximate one that Connor has in mind, has that power.

    Returns:
        The number; None where won and lost are equally many, which no number shows to be different.
    """
    if won == lost:
        return None
    discordant, difference = (won + lost) / images, abs(won - lost) / images
    by_chance = -float(ndtri(LEVEL / 2)) * math.sqrt(discordant)
    beyond = float(ndtri(POWER)) * math.sqrt(discordant - difference**2)
    needed = math.ceil((by_chance + beyond) ** 2 / difference**2)
    share = max(won, lost) / (won + lost)
    while needed * discordant < MANY and power(needed, discordant, share) < POWER:
        needed = math.ceil(needed * 1.005)
    return needed


def power(images: int, discordant: float, share: float) -> float:
    """Return how often McNemar's exact test finds a difference at 5%.

    Args:
        images: in the test split.
        discordant: the probability that one model alone gets an image right.
        share: of these images, those that the better model gets right.
    """
    middle = images * discordant
    spread = 6 * math.sqrt(middle) + 6
    first, last = max(1, math.floor(middle - spread)), min(images, math.ceil(middle + spread))
    counts = np.arange(first, last + 1)
    at_most = bdtr(np.append(first - 1, counts), images, discordant)
    chances = np.diff(at_most)  # of so many images that one model alone gets right
    critical = np.floor(bdtrik(LEVEL / 2, counts, 0.5))  # won or lost, the fewer of them
    possible = bdtr(critical, counts, 0.5) <= LEVEL / 2  # not with fewer than six images
    found = bdtr(critical, counts, share) + bdtrc(counts - critical - 1, counts, share)
    return float((chances * found)[possible].sum())


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number, so that 5% bounds the chance of one false alarm.

    Source: Holm, "A simple sequentially rejective multiple test procedure" (1979).
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(np.asarray(p_values)[order] * factors))
    return [float(value) for value in adjusted]
