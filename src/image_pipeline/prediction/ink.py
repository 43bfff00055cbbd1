"""The ink of a photograph: how much darker than its ground each pixel is.

The ground may have two levels or more: the edge of a shadow, a sheet on a desk. So it is found by a
grey-level closing, which fills dark structures narrower than a window and leaves edges and slopes
of light as they are. `find_sheets` and `fills_image` tell what the closing cannot: which of two
grounds the digit is on, and which of two levels is the ground if the digit fills the image.

All of it is exact integer arithmetic.
"""

import math

import numpy as np
from PIL import Image
from scipy import ndimage

from image_pipeline.prediction.lines import WITH_DIAGONALS, remove_lines

SMOOTH_FROM = 160  # pixels; images longer than this are smoothed against camera noise
OVERVIEW = 128  # pixels of the longer side of the image in which a sheet is looked for
COARSE = 48  # pixels of the longer side of the image whose median is the ground
DARK = 24  # of 255, added to the ground's light, so that noise in the dark is not taken for ink


def otsu_threshold(values: np.ndarray) -> int:
    """Return Otsu's threshold of uint8 values, the maximum of the variance between classes.

    Values up to it are the lower class; 0 if all values are equal.
    """
    counts = np.bincount(values.ravel(), minlength=256).astype(np.float64)
    below, sums = np.cumsum(counts), np.cumsum(counts * np.arange(256))
    above = below[-1] - below
    valid = (below > 0) & (above > 0)
    between = (sums * below[-1] - below * sums[-1]) ** 2 / np.where(valid, below * above, 1)
    return int(np.argmax(np.where(valid, between, 0)))


def extract_level(image: np.ndarray, *, light_on_dark: bool) -> np.ndarray:
    """Return an image's channels, smoothed against noise, with dark ink; uint8 `[C, H, W]`.

    Args:
        image: uint8 `[H, W]` or `[H, W, 3]`.
        light_on_dark: whether the ink is lighter than its ground; the levels are then inverted.
    """
    channels = np.moveaxis(np.atleast_3d(image), 2, 0)
    if max(image.shape[:2]) > SMOOTH_FROM:
        channels = ndimage.uniform_filter(channels, (1, 3, 3))
    levels: np.ndarray = 255 - channels if light_on_dark else channels
    return levels


def extract_ink(levels: np.ndarray, window: int, *, fills: bool) -> np.ndarray:
    """Return the share of the ground's light that each pixel lacks, of 255; uint8 `[H, W]`.

    Coloured ink is measured in the channel where it shows most.

    Args:
        levels: uint8 `[C, H, W]`, with dark ink.
        window: pixels; strokes must be narrower.
        fills: whether the digit fills the image, so that what touches the rim is ink. Otherwise
            the ground goes on beyond the rim as it is there.
    """
    ink: np.ndarray = np.maximum.reduce([_below_ground(each, window, fills) for each in levels])
    return ink


def _below_ground(level: np.ndarray, window: int, fills: bool) -> np.ndarray:
    if fills:
        light = level[level > otsu_threshold(level)]
        around = int(np.median(light)) if light.size else 255
        padded = np.pad(level, window, constant_values=around)
    else:
        padded = np.pad(level, window, mode="edge")
    # Of a closing, only the dilation may take the rim's levels for those beyond it.
    ground = ndimage.grey_closing(padded, (window | 1,) * 2, mode="nearest")
    ground = ground[window:-window, window:-window].astype(np.int64)
    ink: np.ndarray = ((ground - level) * 255 // (ground + DARK)).astype(np.uint8)
    return ink


def is_light_on_dark(image: np.ndarray) -> bool:
    """Tell whether what stands out from its surroundings is lighter than they are, not darker.

    Args:
        image: uint8 `[H, W]` or `[H, W, 3]`.
    """
    small = _reduced(_grey(image), COARSE)
    window = max(small.shape) // 2 | 1
    ground = ndimage.median_filter(small, (window, window), mode="nearest")
    difference = small.astype(np.int64) - ground
    return int((difference * abs(difference)).sum()) > 0


def fills_image(image: np.ndarray) -> bool | None:
    """Tell whether a digit fills the image: light on dark, dark on light (False), or not (None).

    The image then has two levels. One of them is a digit's if it reaches all four sides, is nowhere
    as wide as the image is long, and is no frame.
    """
    grey = _reduced(_grey(image), OVERVIEW)
    light = grey > otsu_threshold(grey)
    if _separation(grey, light) < 85:
        return None
    scores = {}
    longest = max(grey.shape)
    for light_on_dark, mask in ((False, ~light), (True, light)):
        labels, _ = ndimage.label(mask, WITH_DIAGONALS)
        areas = np.bincount(labels.ravel())
        areas[0] = 0
        parts = np.isin(labels, np.flatnonzero(20 * areas >= areas.sum()))
        framed = _count_reached_sides(_without_frame(parts)) < 3
        box = [np.ptp(each) + 1 for each in np.nonzero(parts)]
        blank = 100 * int(ndimage.binary_fill_holes(parts).sum()) > 90 * int(box[0] * box[1])
        radius = float(ndimage.distance_transform_edt(np.pad(parts, 1)).max())
        grounds = np.bincount(ndimage.label(~parts)[0].ravel())[1:]
        rim = np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]])
        on_rim = int(rim.sum()) * 100 // len(rim)
        score = int(areas.max()) * 100 // int(areas.sum()) - on_rim
        elongated = 5 * longest >= 9 * min(grey.shape)
        if (
            _count_reached_sides(parts) == 4
            and 100 * radius <= 21 * longest
            and (elongated or (on_rim <= 40 and not blank and not framed))
            and int((grounds > mask.size // 500).sum()) <= 10
            and score > 20
        ):
            scores[light_on_dark] = score
    return max(scores, key=lambda key: scores[key]) if scores else None


def _count_reached_sides(mask: np.ndarray) -> int:
    """Return how many sides of the image a mask reaches, but for a twelfth of the way."""
    strips = (np.array_split(mask, 12, axis) for axis in (0, 1))
    return sum(bool(strip.any()) for each in strips for strip in (each[0], each[-1]))


def _without_frame(mask: np.ndarray) -> np.ndarray:
    """Return a mask without thin lines and without what runs along the rim."""
    inner = np.zeros(mask.shape, bool)
    height, width = (side // 8 for side in mask.shape)
    inner[height : mask.shape[0] - height, width : mask.shape[1] - width] = True
    labels, _ = ndimage.label(remove_lines(mask, max(mask.shape) // 10), WITH_DIAGONALS)
    areas = np.bincount(labels.ravel())
    kept = 6 * np.bincount(labels[inner], minlength=len(areas)) > areas
    kept[0] = False
    without: np.ndarray = kept[labels]
    return without


def _separation(values: np.ndarray, upper: np.ndarray) -> int:
    """Return the share of the variance, in percent, that is between two classes."""
    count, above = values.size, int(upper.sum())
    total, of_above = int(values.sum(dtype=np.int64)), int(values[upper].sum(dtype=np.int64))
    variance = count * int((values.astype(np.int64) ** 2).sum()) - total**2
    below = count - above
    if not (above and below and variance):
        return 0
    between = (of_above * below - (total - of_above) * above) ** 2
    return 100 * between // (above * below * variance)


def find_sheets(image: np.ndarray) -> list[tuple[np.ndarray, bool]]:
    """Return what may be a sheet: its mask, bool `[H, W]`, and whether it is darker than the desk.

    A sheet is a compact area of one level with straight or bulging sides, and what surrounds it,
    up to the rim, is of another. The lit part of a page looks the same, and so does the other.
    """
    lowest = image if image.ndim == 2 else image.min(2)
    small = _reduced(lowest, OVERVIEW)
    sheets = []
    for dark, level in ((False, small), (True, 255 - small)):
        threshold = otsu_threshold(level)
        upper, lower = level[level > threshold], level[level <= threshold]
        cuts = [threshold, *(otsu_threshold(part) for part in (upper, lower) if part.size)]
        found = [_convex_part(level, cut) for cut in cuts]
        _, best = max(found, key=lambda pair: pair[0])
        if best is not None:
            best = ndimage.binary_erosion(best, WITH_DIAGONALS, 2, border_value=1)
            enlarged = Image.fromarray(best).resize(image.shape[1::-1], Image.Resampling.NEAREST)
            sheets.append((np.asarray(enlarged), dark))
    return sheets


def _convex_part(level: np.ndarray, threshold: int) -> tuple[int, np.ndarray | None]:
    """Return the largest part above a threshold, filled, if it is a sheet, and its contrast."""
    above = ndimage.binary_opening(np.pad(level > threshold, 2, mode="edge"), WITH_DIAGONALS)
    labels, count = ndimage.label(above[2:-2, 2:-2])
    if not count:
        return 0, None
    part = labels == np.bincount(labels.ravel())[1:].argmax() + 1
    filled = _hull(part)
    area, outside = int(filled.sum()), ~filled
    rim = np.concatenate([outside[0], outside[-1], outside[:, 0], outside[:, -1]])
    if not (
        12 * area >= part.size
        and 20 * area <= 19 * part.size
        and 100 * int(part.sum()) >= 65 * area
        and 100 * int(ndimage.binary_fill_holes(part).sum()) >= 95 * area
        and 8 * int(rim.sum()) >= len(rim)
        and 100 * int((level[outside] <= threshold).sum()) >= 92 * int(outside.sum())
        and (_touches_rim(filled) or 100 * area >= 86 * rectangle_area(filled))
    ):
        return 0, None
    contrast = int(np.median(level[part])) - int(np.median(level[outside]))
    inside = ndimage.maximum_filter(np.where(filled, level, 0), 5).astype(np.int64)
    steps = inside - ndimage.minimum_filter(np.where(filled, 255, level), 5)
    boundary = filled & ~ndimage.binary_erosion(filled, border_value=1)
    sharp = 10 * int((10 * steps >= 6 * contrast)[boundary].sum()) >= 8 * int(boundary.sum())
    return (contrast, filled) if contrast >= 25 and sharp else (0, None)


def _touches_rim(mask: np.ndarray) -> bool:
    return bool(mask[[0, -1]].any() or mask[:, [0, -1]].any())


def rectangle_area(mask: np.ndarray) -> int:
    """Return the area of the smallest rectangle around a mask, at one of 18 angles."""
    rows, columns = (positions.astype(np.int64) for positions in np.nonzero(mask))
    areas = []
    for degrees in range(0, 90, 5):
        cosine, sine = (round(1000 * f(math.radians(degrees))) for f in (math.cos, math.sin))
        across, down = columns * cosine + rows * sine, rows * cosine - columns * sine
        areas.append((int(np.ptp(across)) + 1000) * (int(np.ptp(down)) + 1000) // 10**6)
    return min(areas)


def _hull(mask: np.ndarray) -> np.ndarray:
    """Fill a mask along its rows and columns, between the first and the last, twice."""
    filled = mask
    for _ in range(2):
        for axis in (0, 1):
            forward = np.logical_or.accumulate(filled, axis)
            backward = np.flip(np.logical_or.accumulate(np.flip(filled, axis), axis), axis)
            filled = forward & backward
    return filled


def _grey(image: np.ndarray) -> np.ndarray:
    if image.ndim == 2:
        return image
    grey: np.ndarray = (image.sum(2, dtype=np.int64) // 3).astype(np.uint8)
    return grey


def _reduced(grey: np.ndarray, longest: int) -> np.ndarray:
    """Average blocks of pixels until the longer side has no more than `longest` pixels."""
    return np.asarray(Image.fromarray(grey).reduce(-(-max(grey.shape) // longest)))
