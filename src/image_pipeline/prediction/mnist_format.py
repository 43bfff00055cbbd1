"""Convert a photograph or scan of a digit to the format of MNIST's images.

MNIST's authors (LeCun et al. 1998, "Gradient-based learning applied to document recognition")
scaled each black-and-white digit, proportions kept, to a box of 20 x 20 pixels, from which alone
its grey levels come, and placed its centre of mass at the centre of 28 x 28 pixels: white strokes
on black.

The steps before that are for paper and cameras: estimate and divide out the background, tell dark
on light from light on dark, remove frames and ruled lines, select the digit's strokes among specks
and shadows, and normalise their width.

The bits are the same on every x86-64 machine: integers throughout, except for single sums,
products, quotients and square roots of doubles, which every processor rounds alike; no sum of
doubles depends on its order.
"""

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from image_pipeline.common.errors import DataError
from image_pipeline.prediction.ink import (
    extract_ink,
    extract_level,
    fills_image,
    find_sheets,
    is_light_on_dark,
)
from image_pipeline.prediction.lines import WITH_DIAGONALS
from image_pipeline.prediction.strokes import (
    AT_EDGE,
    NO_STROKES,
    UNEVEN,
    Digit,
    find_digit,
)

SIDE = 28  # pixels of an MNIST image
BOX = 20  # pixels of the box that holds the digit
MIN_SIDE = 8  # pixels of a photograph's shorter side
MAX_SIDE = 512  # pixels of a photograph's longer side; larger ones are reduced

WINDOWS = (3, 6, 12)  # parts of the shorter side that the ground is closed over, one after another

WORKING_SIDE = 80  # pixels, at least, of a digit's longer side while its stroke width is changed
DISTANCE_UNIT = 256  # fixed-point unit of distances in pixels
# Stroke widths, in 256ths of the digit's longer side. Of MNIST's digits, 5% are thinner than
# `MIN_WIDTH` and 5% are thicker than `MAX_WIDTH`. Strokes thinner than that are widened to
# `WIDENED`, MNIST's lower quartile; thicker ones are narrowed to `MAX_WIDTH`.
MIN_WIDTH, WIDENED, MAX_WIDTH = 20, 26, 47

_POSITIONS = np.arange(SIDE)

Found = tuple[np.ndarray, Digit]  # the ink, uint8 `[H, W]`, and the digit in it


def is_mnist_format(image: np.ndarray) -> bool:
    """Tell whether an image already has MNIST's format, so that nothing needs to be done.

    That is: 28 x 28 pixels, white on a black background, the digit as large as MNIST's and
    centred. All 70,000 images of MNIST pass.

    Args:
        image: uint8 `[H, W]` or `[H, W, 3]`.
    """
    if image.shape[:2] != (SIDE, SIDE):
        return False
    if image.ndim == 3:
        if bool((image != image[..., :1]).any()):
            return False
        image = image[..., 0]
    ink = np.where(image < 32, 0, image)  # without JPEG artefacts in the black
    if int(ink.max()) < 128 or np.count_nonzero(ink) > SIDE * SIDE // 2:
        return False
    sums = [ink.sum(axis, dtype=np.int64) for axis in (0, 1)]
    inked = [np.flatnonzero(each) for each in sums]
    longest = int(max(each[-1] - each[0] for each in inked)) + 1
    total = int(sums[0].sum())
    # Doubled, so that the centre is an integer: 27, halfway between the first and the last pixel.
    offsets = [abs(2 * int(each @ _POSITIONS) - (SIDE - 1) * total) for each in sums]
    return BOX - 2 <= longest <= SIDE - 4 and max(offsets) <= 5 * total


@dataclass(frozen=True)
class ConvertedDigit:
    """A digit in MNIST's format.

    Attributes:
        pixels: uint8 `[28, 28]`, white on black.
        doubts: why it may not be the digit that was meant, in words.
        left_out: what else the image shows, in words.
    """

    pixels: np.ndarray
    doubts: tuple[str, ...]
    left_out: tuple[str, ...]


def to_mnist_format(image: np.ndarray, *, deskew: bool = False) -> ConvertedDigit:
    """Convert a photograph or scan of one digit to MNIST's format.

    Args:
        image: uint8 `[H, W]` (grey) or `[H, W, 3]` (RGB); a digit of any size and position, dark on
            light or light on dark.
        deskew: shear a slanted digit upright.

    Raises:
        DataError: the image is blank, or too small or too faint to show strokes.
    """
    if min(image.shape[:2]) < MIN_SIDE:
        raise DataError(NO_STROKES)
    ink, found = _find_ink(_reduce(image))
    digit = _crop_digit(ink, found.mask)
    if deskew:
        digit = _deskew(digit)
    pixels = _centre(_scale_to_box(_normalise_stroke_width(digit)))
    return ConvertedDigit(pixels, found.doubts, found.left_out)


def _find_ink(image: np.ndarray) -> Found:
    """Return the ink, uint8 `[H, W]`, and the digit in it: on a sheet if there is one."""
    polarity = fills_image(image)
    if polarity is not None:
        levels = extract_level(image, light_on_dark=polarity)
        ink = extract_ink(levels, max(image.shape[:2]) // 2, fills=True)
        return ink, find_digit(ink, levels, fills=True)
    sheets = find_sheets(image)
    if not sheets:
        return _find_on_page(image)
    whole = None
    with suppress(DataError):
        whole = _find_on_page(image)
    for sheet, dark in sheets:
        with suppress(DataError):
            # Ink on a sheet differs from it in the same direction as the desk.
            ink, digit = _find_on_ground(image, dark, sheet)
            if _is_plain(digit):
                if whole and _is_lit_part(sheet, digit, whole[1], dark):
                    return whole
                return ink, digit
    if whole is None:
        raise DataError(NO_STROKES)
    return whole


def _find_on_page(image: np.ndarray) -> Found:
    """Return the ink and the digit if there is no sheet to be seen."""
    if is_light_on_dark(image):
        dark = light = None
        with suppress(DataError):
            light = _find_on_ground(image, True)
        with suppress(DataError):
            dark = _find_on_ground(image, False)
        # What is light may be a gap between dark strokes, or a lit corner of a page in shadow.
        if light and not (dark and _is_plain(dark[1]) and _surrounds(dark, light)):
            return light
        if dark:
            return dark
    return _find_on_ground(image, False)


def _surrounds(one: Found, other: Found) -> bool:
    """Tell whether the box of one digit contains that of another, and it stands out as much."""
    strengths = [int(np.median(ink[digit.mask])) for ink, digit in (one, other)]
    return 5 * strengths[0] >= 3 * strengths[1] and all(
        inner.min() >= outer.min() and inner.max() <= outer.max()
        for outer, inner in zip(np.nonzero(one[1].mask), np.nonzero(other[1].mask), strict=True)
    )


def _is_lit_part(sheet: np.ndarray, digit: Digit, whole: Digit, dark: bool) -> bool:
    """Tell whether what was taken for a sheet is only the lit part of one, or its shadow.

    Then the digit that was found without it goes on beyond it.
    """
    if whole.doubts:
        return False
    if dark:
        return 2 * int((whole.mask & sheet).sum()) < int(sheet.sum())
    shared = int((digit.mask & whole.mask).sum())
    return 2 * shared >= int(digit.mask.sum()) and 50 * int((whole.mask & ~sheet).sum()) >= shared


def _find_on_ground(
    image: np.ndarray, light_on_dark: bool, sheet: np.ndarray | None = None
) -> Found:
    """Return the ink and the digit: with a narrower window if shadows are taken for ink."""
    levels = extract_level(image, light_on_dark=light_on_dark)
    first = None
    for darkest in (False,) if sheet is None else (False, True):
        for parts in WINDOWS:
            window = max(5, min(image.shape[:2]) // parts)
            try:
                ink, digit = _find_in_window(levels, window, sheet, darkest)
            except DataError:
                if first is None:
                    raise
                continue
            if _is_plain(digit):
                # Less of a shadow is narrower than a narrower window.
                narrow = max(5, 3 * _stroke_width(digit.mask) // DISTANCE_UNIT)
                if 4 * narrow < 3 * window:
                    finer, again = _find_in_window(levels, narrow, sheet, darkest)
                    return (finer, again) if _is_plain(again) else (ink, digit)
                return ink, digit
            first = first or (ink, digit)
    if first is None:
        raise DataError(NO_STROKES)
    return first


def _find_in_window(
    levels: np.ndarray, window: int, sheet: np.ndarray | None, darkest: bool
) -> Found:
    ink = extract_ink(levels, window, fills=False)
    return ink, find_digit(ink, levels, sheet=sheet, darkest=darkest)


def _is_plain(digit: Digit) -> bool:
    """Tell whether the digit stands by itself on its ground."""
    return not {AT_EDGE, UNEVEN} & set(digit.doubts)


def _reduce(image: np.ndarray) -> np.ndarray:
    """Average blocks of pixels until the longer side has no more than `MAX_SIDE` pixels."""
    factor = -(-max(image.shape[:2]) // MAX_SIDE)
    if factor == 1:
        return image
    factors = (min(factor, image.shape[1]), min(factor, image.shape[0]))
    return np.asarray(Image.fromarray(image).reduce(factors))


def _crop_digit(ink: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the digit's mask, cropped, bool `[h, w]`, enlarged to at least `WORKING_SIDE` pixels.

    A small digit is enlarged with its grey levels, which locate an edge within a pixel.
    """
    cropped = _crop(mask)
    longest = max(cropped.shape)
    if longest >= WORKING_SIDE:
        return cropped
    grey = np.where(ndimage.binary_dilation(mask, WITH_DIAGONALS), ink, 0).astype(np.int64)
    median = int(np.sort(ink[mask])[np.count_nonzero(mask) // 2])
    grey = np.pad(np.minimum(grey * 255 // median, 255).astype(np.uint8), 1)
    height, width = ((2 * side * WORKING_SIDE + longest) // (2 * longest) for side in grey.shape)
    enlarged = Image.fromarray(grey).resize((width, height), Image.Resampling.BICUBIC)
    return _crop(np.asarray(enlarged) > 127)


def _crop(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _deskew(digit: np.ndarray) -> np.ndarray:
    """Shear a digit's rows until the slant, estimated from its second moments, is zero."""
    rows, columns = np.nonzero(digit)
    count = len(rows)
    offset = rows * count - int(rows.sum())  # count times the distance from the mean row
    covariance, variance = int((offset * columns).sum()), int((offset * rows).sum())
    height, width = digit.shape
    shifts = [
        -(covariance * (2 * row - height)) // (2 * variance) if variance else 0
        for row in range(height)
    ]
    sheared = np.zeros((height, width + max(shifts) - min(shifts)), bool)
    for row, shift in enumerate(shifts):
        start = shift - min(shifts)
        sheared[row, start : start + width] = digit[row]
    return _crop(sheared)


def _normalise_stroke_width(digit: np.ndarray) -> np.ndarray:
    """Widen strokes that are thinner than most of MNIST's, narrow those that are thicker."""
    longest = max(digit.shape)
    margin = longest * WIDENED // 256 + 1
    padded = np.pad(digit, margin)
    width = _stroke_width(digit)
    if width < MIN_WIDTH * longest:
        padded = _edge_distances(~padded) <= (WIDENED * longest - width) // 2
    elif width > MAX_WIDTH * longest:
        padded = _edge_distances(padded) > (width - MAX_WIDTH * longest) // 2
    return _crop(padded)


def _stroke_width(digit: np.ndarray) -> int:
    """Return the mean width of a digit's strokes in `DISTANCE_UNIT`s."""
    # On average, a stroke's pixels are a quarter of its width away from its edge.
    inside = _edge_distances(np.pad(_crop(digit), 1))
    return 4 * int(inside.sum()) // int(np.count_nonzero(digit)) - 2 * DISTANCE_UNIT


def _edge_distances(mask: np.ndarray) -> np.ndarray:
    """Return each pixel's distance to the nearest one outside a mask, int64 `DISTANCE_UNIT`s."""
    distances: np.ndarray = ndimage.distance_transform_edt(mask) * DISTANCE_UNIT
    return distances.astype(np.int64)


def _scale_to_box(digit: np.ndarray) -> np.ndarray:
    """Scale a digit so that its longer side has `BOX` pixels, uint8 `[h, w]`."""
    longest = max(digit.shape)
    height, width = (max(1, (2 * side * BOX + longest) // (2 * longest)) for side in digit.shape)
    grey = Image.fromarray(digit.astype(np.uint8) * 255)
    return np.asarray(grey.resize((width, height), Image.Resampling.BOX))


def _centre(digit: np.ndarray) -> np.ndarray:
    """Paste a digit into 28 x 28 pixels, its centre of mass as close to the centre as it fits."""
    total = int(digit.sum(dtype=np.int64))
    corner = []
    for axis, side in enumerate(digit.shape):
        mass = digit.sum(1 - axis, dtype=np.int64)
        moment = int(mass @ (2 * np.arange(side) + 1))  # twice the centre of mass, times the total
        wanted = (SIDE * total - moment + total) // (2 * total)
        corner.append(min(max(wanted, 0), SIDE - side))
    image = np.zeros((SIDE, SIDE), np.uint8)
    image[corner[0] : corner[0] + digit.shape[0], corner[1] : corner[1] + digit.shape[1]] = digit
    return image
