"""The width of a digit's strokes: measured, and made like that of MNIST's."""

import numpy as np
from scipy import ndimage

DISTANCE_UNIT = 256  # fixed-point unit of distances in pixels
# Stroke widths, in 256ths of the digit's longer side. Of MNIST's digits, 5% are thinner than
# `MIN_WIDTH` and 5% are thicker than `MAX_WIDTH`. Strokes thinner than that are widened to
# `WIDENED`, MNIST's lower quartile; thicker ones are narrowed to `MAX_WIDTH`.
MIN_WIDTH, WIDENED, MAX_WIDTH = 20, 26, 47


def crop(mask: np.ndarray) -> np.ndarray:
    """Return the box of a mask's pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def normalise_stroke_width(digit: np.ndarray) -> np.ndarray:
    """Widen strokes that are thinner than most of MNIST's, narrow those that are thicker."""
    longest = max(digit.shape)
    margin = longest * WIDENED // 256 + 1
    padded = np.pad(digit, margin)
    width = stroke_width(digit)
    if width < MIN_WIDTH * longest:
        padded = edge_distances(~padded) <= (WIDENED * longest - width) // 2
    elif width > MAX_WIDTH * longest:
        padded = edge_distances(padded) > (width - MAX_WIDTH * longest) // 2
    return crop(padded)


def stroke_width(digit: np.ndarray) -> int:
    """Return the mean width of a digit's strokes in `DISTANCE_UNIT`s."""
    # On average, a stroke's pixels are a quarter of its width away from its edge.
    inside = edge_distances(np.pad(crop(digit), 1))
    return 4 * int(inside.sum()) // int(np.count_nonzero(digit)) - 2 * DISTANCE_UNIT


def edge_distances(mask: np.ndarray) -> np.ndarray:
    """Return each pixel's distance to the nearest one outside a mask, int64 `DISTANCE_UNIT`s."""
    distances: np.ndarray = ndimage.distance_transform_edt(mask) * DISTANCE_UNIT
    return distances.astype(np.int64)
