"""Images that look wrong by themselves: dark, bright, blank, nearly blank,
blurred, of an odd size or shape.

The kinds are those that data-quality tools look for. What is dark or blurred is told by fixed
limits and by the other images: X-rays are dark, and handwriting has no grain.
"""

from collections.abc import Sequence

import numpy as np

DARK, BRIGHT = 25, 235  # of 255: the 99th percentile of a dark image, the 5th of a bright one
BLANK_RANGE = 8  # of 255, between the 1st and the 99th percentile
PLAIN_SHARE = 0.02  # of the data set's median number of greys; 3 of CIFAR-10's images have less
BLUR_SHARE = 0.05  # of the data set's median sharpness
MAX_USUAL = 0.02  # share of the images that may be dark or bright before this counts as usual
ODD_SIZE, ODD_SHAPE = 4.0, 2.5  # times the median of the files' side, and of their aspect ratio


class ImageStatistics:
    """Collects a few numbers of each image, from chunks."""

    def __init__(self) -> None:
        self._rows: list[np.ndarray] = []

    def add(self, images: np.ndarray) -> None:
        """Measure images uint8 `[n, C, H, W]`."""
        grey = images.astype(np.int32).sum(axis=1) // images.shape[1]
        pixels = grey[0].size if len(grey) else 0
        rows = np.arange(len(images))[:, None] * 256 + grey.reshape(len(images), -1)
        counts = np.bincount(rows.ravel(), minlength=256 * len(images)).reshape(-1, 256)
        below = np.cumsum(counts, axis=1)
        ranks = (pixels // 100, pixels // 20, pixels - 1 - pixels // 100)
        percentiles = [(below > rank).argmax(axis=1) for rank in ranks]
        # The inverse of Simpson's index, in thousandths: how many greys there are, in effect.
        greys = 1000 * pixels**2 // (counts * counts).sum(axis=1)
        # The Laplacian's variance, in integers: edges and grain have much, a blurred image little.
        laplacian = (
            4 * grey[:, 1:-1, 1:-1]
            - grey[:, :-2, 1:-1]
            - grey[:, 2:, 1:-1]
            - grey[:, 1:-1, :-2]
            - grey[:, 1:-1, 2:]
        ).reshape(len(images), -1)
        count = max(1, laplacian.shape[1])
        first = laplacian.sum(axis=1, dtype=np.int64)
        second = (laplacian.astype(np.int64) ** 2).sum(axis=1)
        variance = (count * second - first**2) // count**2
        self._rows.append(np.column_stack([*percentiles, greys, variance]))

    def issues(self) -> list[tuple[int, str, float]]:
        """Return each finding: the image's number, the issue, and what was measured."""
        rows = np.concatenate(self._rows) if self._rows else np.zeros((0, 5), np.int64)
        low, dim, high, greys, sharpness = rows.T
        blank = high - low < BLANK_RANGE
        usual_greys, usual_sharpness = (
            float(np.median(values)) if len(rows) else 0.0 for values in (greys, sharpness)
        )
        plain = ~blank & (greys < PLAIN_SHARE * usual_greys)
        dark, bright = _unusual(~blank & (high < DARK)), _unusual(~blank & (dim > BRIGHT))
        plain &= ~dark & ~bright
        blurred = sharpness < BLUR_SHARE * usual_sharpness
        kinds = {
            "blank": (blank, high - low),
            "dark": (dark, high),
            "bright": (bright, dim),
            "low information": (plain, greys),
            "blurred": (blurred & ~(blank | dark | bright | plain), sharpness),
        }
        return [
            (int(number), kind, float(values[number]))
            for kind, (found, values) in kinds.items()
            for number in np.flatnonzero(found)
        ]


def _unusual(found: np.ndarray) -> np.ndarray:
    usual = found.sum() > max(1, MAX_USUAL * len(found))
    return np.zeros_like(found) if usual else found


def odd_files(sizes: Sequence[tuple[int, int]]) -> list[tuple[int, str, float]]:
    """Return the findings of files of other sizes and shapes than most, as `issues` does.

    Args:
        sizes: width and height of each image's file, in pixels.
    """
    if not sizes:
        return []
    width, height = np.array(sizes, np.float64).T
    found = []
    for kind, values, limit in (
        ("odd size", np.sqrt(width * height), ODD_SIZE),
        ("odd shape", width / height, ODD_SHAPE),
    ):
        ratio = values / np.median(values)
        odd = (ratio > limit) | (ratio < 1 / limit)
        found += [
            (int(number), kind, round(float(values[number]), 3)) for number in np.flatnonzero(odd)
        ]
    return found
