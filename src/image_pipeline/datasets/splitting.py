"""Draw some images of each class: for the validation split, or a test split."""

import math
from collections.abc import Sequence

import numpy as np

from image_pipeline.common.errors import DataError

STRATUM_IMAGES = 1 << 16


def draw(
    labels: np.ndarray,
    class_names: tuple[str, ...],
    fraction: float,
    seed: int | Sequence[int],
    key: str,
) -> np.ndarray:
    """Draw images to be kept back: of each class the given share, at least one image.

    Drawn stratum by stratum along the data, with the shares kept at the end of each: the whole set
    is never sorted or permuted.

    Args:
        labels: unsigned integers `[N]`.
        class_names: one per class.
        fraction: above 0, to 0.5.
        seed: of the draw; other numbers, or another number of them, draw independently.
        key: of params.yaml, that `fraction` comes from.

    Returns:
        bool `[N]`, whether the image is kept back.

    Raises:
        DataError: a class has a single image.
    """
    strata = range(0, len(labels), STRATUM_IMAGES)
    # One stratum at a time: NumPy counts a copy of eight bytes per label.
    counts = [
        np.bincount(labels[start : start + STRATUM_IMAGES], minlength=len(class_names))
        for start in strata
    ]
    totals = np.sum(counts, axis=0)
    for name in np.asarray(class_names)[totals == 1]:
        raise DataError(
            f"class {name}: it has a single training image, and {key} ({fraction}) keeps back at "
            "least one of each class; add an image, or leave the class out"
        )
    wanted = [max(1, math.floor(fraction * total + 0.5)) for total in totals.tolist()]
    rng = np.random.default_rng(seed)
    kept_back = np.zeros(len(labels), bool)
    seen, taken = [0] * len(totals), [0] * len(totals)
    for start in strata:
        stratum = labels[start : start + STRATUM_IMAGES]
        for label in np.unique(stratum).tolist():
            members = np.flatnonzero(stratum == label)
            seen[label] += len(members)
            total = int(totals[label])
            due = (2 * wanted[label] * seen[label] + total) // (2 * total) - taken[label]
            taken[label] += due
            kept_back[start + rng.choice(members, due, replace=False)] = True
    return kept_back
