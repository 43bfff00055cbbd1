"""Convert a photograph or scan of a digit to the format of MNIST's images.

MNIST's authors (LeCun et al. 1998, "Gradient-based learning applied to document recognition")
scaled each black-and-white digit, proportions kept, to a box of 20 x 20 pixels, from which alone
its grey levels come, and placed its centre of mass at the centre of 28 x 28 pixels: white strokes
on black.

The steps before that are for paper and cameras, each in a module of its own: `finding` tries what
there may be (a sheet, a shadow, a crop), `ink` tells ink from its ground, `lines` removes frames
and ruled lines, `strokes` selects those of the digit, and `stroke_width` normalises their width.

The bits are the same on every x86-64 machine: integers throughout, except for single sums,
products, quotients and square roots of doubles, which every processor rounds alike; no sum of
doubles depends on its order.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from image_pipeline.common.errors import DataError
from image_pipeline.prediction.finding import find_digit_and_ink
from image_pipeline.prediction.lines import WITH_DIAGONALS
from image_pipeline.prediction.stroke_width import crop, normalise_stroke_width
from image_pipeline.prediction.strokes import NO_STROKES
from image_pipeline.reading.mnist_centring import BOX, SIDE, centre

MIN_SIDE = 8  # pixels of a photograph's shorter side
MAX_SIDE = 512  # pixels of a photograph's longer side; larger ones are reduced
WORKING_SIDE = 80  # pixels, at least, of a digit's longer side while its stroke width is changed

_POSITIONS = np.arange(SIDE)


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
        joined: whether it is of several marks, joined as its strokes.
    """

    pixels: np.ndarray
    doubts: tuple[str, ...]
    left_out: tuple[str, ...]
    joined: bool


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
    ink, found = find_digit_and_ink(_reduce(image))
    digit = _crop_digit(ink, found.mask)
    if deskew:
        digit = _deskew(digit)
    pixels = centre(_scale_to_box(normalise_stroke_width(digit)))
    return ConvertedDigit(pixels, found.doubts, found.left_out, found.joined)


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
    cropped = crop(mask)
    longest = max(cropped.shape)
    if longest >= WORKING_SIDE:
        return cropped
    grey = np.where(ndimage.binary_dilation(mask, WITH_DIAGONALS), ink, 0).astype(np.int64)
    median = int(np.sort(ink[mask])[np.count_nonzero(mask) // 2])
    grey = np.pad(np.minimum(grey * 255 // median, 255).astype(np.uint8), 1)
    height, width = ((2 * side * WORKING_SIDE + longest) // (2 * longest) for side in grey.shape)
    enlarged = Image.fromarray(grey).resize((width, height), Image.Resampling.BICUBIC)
    return crop(np.asarray(enlarged) > 127)


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
    return crop(sheared)


def _scale_to_box(digit: np.ndarray) -> np.ndarray:
    """Scale a digit so that its longer side has `BOX` pixels, uint8 `[h, w]`."""
    longest = max(digit.shape)
    height, width = (max(1, (2 * side * BOX + longest) // (2 * longest)) for side in digit.shape)
    grey = Image.fromarray(digit.astype(np.uint8) * 255)
    return np.asarray(grey.resize((width, height), Image.Resampling.BOX))
