"""Stratified splitting: the same share of every class, for a validation or a test split."""

from collections.abc import Sequence

import numpy as np

from image_pipeline.common.errors import DataError

BLOCK_IMAGES = 1 << 16


def stratified_split(
    labels: np.ndarray,
    class_names: tuple[str, ...],
    fraction: float,
    seed: int | Sequence[int],
    key: str,
) -> np.ndarray:
    """Select a random `fraction` of each class, at least one image, to be held out.

    Selects block by block along the data, and keeps the fractions at the end of each block: the
    whole set is never sorted or permuted.

    Args:
        labels: unsigned integers `[N]`.
        class_names: one per class.
        fraction: above 0, to 0.5.
        seed: of the random generator; different numbers, or sequences, select independently.
        key: the key of params.yaml that holds `fraction`, for the error.

    Returns:
        bool `[N]`, whether the image is held out.

    Raises:
        DataError: a class has a single image.
    """
    blocks = range(0, len(labels), BLOCK_IMAGES)
    # One block at a time: NumPy counts a copy of eight bytes per label.
    counts = [
        np.bincount(labels[start : start + BLOCK_IMAGES], minlength=len(class_names))
        for start in blocks
    ]
    totals = np.sum(counts, axis=0)
    for name in np.asarray(class_names)[totals == 1]:
        raise DataError(
            f"class {name}: it has a single training image, and {key} ({fraction}) holds out at "
            "least one of each class; add an image, or remove the class"
        )
    wanted = np.maximum(1, np.floor(fraction * totals + 0.5).astype(np.int64))
    # Of each class, up to the end of each block; a class without images is in no block.
    taken = (2 * wanted * np.cumsum(counts, axis=0) + totals) // np.maximum(1, 2 * totals)
    rng = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), bool)
    for start, due in zip(blocks, np.diff(taken, axis=0, prepend=0), strict=True):
        block = labels[start : start + BLOCK_IMAGES]
        for label in np.unique(block).tolist():
            members = np.flatnonzero(block == label)
            held_out[start + rng.choice(members, due[label], replace=False)] = True
    return held_out
