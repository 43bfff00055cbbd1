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

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from PIL import Image
from scipy import ndimage

from image_pipeline.common.errors import DataError

SIDE = 28  # pixels of an MNIST image
BOX = 20  # pixels of the box that holds the digit
MIN_SIDE = 8  # pixels of a photograph's shorter side
MAX_SIDE = 512  # pixels of a photograph's longer side; larger ones are reduced
SMOOTH_FROM = 160  # pixels; images longer than this are smoothed against camera noise
COARSE = 24  # pixels of the longer side of the image that the background is fitted to
ONE = 1 << 10  # 1.0 in fixed point; the background fit's coordinates run from -1 to 1
MIN_CONTRAST = 24  # how much of 255 the ink must differ from the background

WORKING_SIDE = 80  # pixels, at least, of a digit's longer side while its stroke width is changed
DISTANCE_UNIT = 256  # fixed-point unit of distances in pixels
# Stroke widths, in 256ths of the digit's longer side. Of MNIST's digits, 5% are thinner than
# `MIN_WIDTH` and 5% are thicker than `MAX_WIDTH`. Strokes thinner than that are widened to
# `WIDENED`, MNIST's lower quartile; thicker ones are narrowed to `MAX_WIDTH`.
MIN_WIDTH, WIDENED, MAX_WIDTH = 20, 26, 47

NO_STROKES = (
    "no strokes found: a photograph or scan of one digit is expected, drawn in one ink that "
    "stands out from its background; take the picture closer or in better light"
)

_WITH_DIAGONALS = np.ones((3, 3), bool)  # a pixel and its eight neighbours
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


def to_mnist_format(image: np.ndarray, *, deskew: bool = False) -> np.ndarray:
    """Convert a photograph or scan of one digit to MNIST's format.

    Args:
        image: uint8 `[H, W]` (grey) or `[H, W, 3]` (RGB); a digit of any size and position, dark on
            light or light on dark.
        deskew: shear a slanted digit upright.

    Returns:
        uint8 `[28, 28]`, white on black.

    Raises:
        DataError: the image is blank, or too small or too faint to show strokes.
    """
    if min(image.shape[:2]) < MIN_SIDE:
        raise DataError(NO_STROKES)
    ink = _extract_ink(_reduce(image))
    digit = _crop_digit(ink, _segment_digit(ink))
    if deskew:
        digit = _deskew(digit)
    return _centre(_scale_to_box(_normalise_stroke_width(digit)))


def _reduce(image: np.ndarray) -> np.ndarray:
    """Average blocks of pixels until the longer side has no more than `MAX_SIDE` pixels."""
    factor = -(-max(image.shape[:2]) // MAX_SIDE)
    if factor == 1:
        return image
    factors = (min(factor, image.shape[1]), min(factor, image.shape[0]))
    return np.asarray(Image.fromarray(image).reduce(factors))


def _extract_ink(image: np.ndarray) -> np.ndarray:
    """Return how much of the background's light each pixel lacks, uint8 `[H, W]`: ink is bright.

    Coloured ink is measured in the channel where it shows most.
    """
    channels = [image] if image.ndim == 2 else list(np.moveaxis(image, 2, 0))
    if max(image.shape[:2]) > SMOOTH_FROM:
        channels = [ndimage.uniform_filter(channel, 3) for channel in channels]
    if _is_light_on_dark(channels):
        channels = [255 - channel for channel in channels]
    ink: np.ndarray = np.maximum.reduce([_divide_out_background(each) for each in channels])
    return ink


def _is_light_on_dark(channels: list[np.ndarray]) -> bool:
    """Tell whether what stands out from the background is lighter than it, not darker."""
    small = _coarsen(np.stack(channels).sum(0, dtype=np.int64) // len(channels))
    difference = (small - _fit_background(small, small.shape)).astype(np.int64)
    return int((difference**2 * np.sign(difference)).sum()) > 0


def _divide_out_background(channel: np.ndarray) -> np.ndarray:
    """Return 255 times the share of the background's light that a pixel lacks, uint8 `[H, W]`.

    The background is first a smooth surface, for light from one side, and then what remains of
    shadows once narrow dark structures are closed.
    """
    background = np.maximum(_fit_background(_coarsen(channel), channel.shape), 1)
    level = np.minimum(channel.astype(np.int64) * 192 // background, 255).astype(np.uint8)
    window = max(5, min(channel.shape) // 3) | 1
    closed = ndimage.uniform_filter(ndimage.grey_closing(level, (window, window)), window // 2 | 1)
    background = np.maximum(closed, np.maximum(level, 1)).astype(np.int64)
    ink: np.ndarray = ((background - level) * 255 // background).astype(np.uint8)
    return ink


def _coarsen(grey: np.ndarray) -> np.ndarray:
    """Average blocks of pixels until the longer side has no more than `COARSE` pixels; int64."""
    image = Image.fromarray(grey.astype(np.uint8))
    return np.asarray(image.reduce(-(-max(grey.shape) // COARSE))).astype(np.int64)


def _fit_background(small: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Fit a polynomial of degree two in y and x to a coarse image; evaluate it at `shape`, int64.

    Least squares, refitted without the third of the pixels with the largest residuals: strokes and
    frames.
    """
    terms = _polynomial_terms(small.shape)
    used = np.ones(small.shape, bool)
    for _ in range(4):
        chosen, values = [term[used] for term in terms], small[used]
        weights = _solve(
            [[int(one @ other) for other in chosen] + [int(one @ values)] for one in chosen]
        )
        residuals = abs(small - sum(w * term for w, term in zip(weights, terms, strict=True)))
        used = residuals <= np.sort(residuals, axis=None)[residuals.size * 2 // 3]
    surface = sum(w * term for w, term in zip(weights, _polynomial_terms(shape), strict=True))
    return np.clip(np.rint(surface), 0, 255).astype(np.int64)


def _polynomial_terms(shape: tuple[int, ...]) -> list[np.ndarray]:
    """Return 1, y, x, yy, xy, xx over an image, int64 `[H, W]` each, in units of 1 / `ONE`."""
    y, x = (
        np.broadcast_to(
            np.expand_dims(((2 * np.arange(side) + 1) * ONE // side) - ONE, 1 - axis), shape
        )
        for axis, side in enumerate(shape)
    )
    return [np.full(shape, ONE), y, x, y * y // ONE, x * y // ONE, x * x // ONE]


def _solve(rows: list[list[int]]) -> list[float]:
    """Solve the linear system of an augmented matrix exactly; round each unknown once."""
    matrix = [[Fraction(value) for value in row] for row in rows]
    for pivot, row in enumerate(matrix):
        row[:] = [value / row[pivot] for value in row]
        for other in matrix:
            if other is not row and other[pivot]:
                factor = other[pivot]
                other[:] = [a - factor * b for a, b in zip(other, row, strict=True)]
    return [float(row[-1]) for row in matrix]


def _segment_digit(ink: np.ndarray) -> np.ndarray:
    """Return the mask of the digit's pixels, bool `[H, W]`."""
    kept = np.ones(ink.shape, bool)
    for _ in range(2):  # the second time without frames, which are often darker than the digit
        mask = kept & (ink > _otsu_threshold(ink[kept]))
        lines = mask & ~_remove_lines(mask)
        kept &= ndimage.maximum_filter(lines.view(np.uint8), 5) == 0
    return _select_components(kept & mask)


def _otsu_threshold(values: np.ndarray) -> int:
    """Return Otsu's threshold between ink and background, the maximum of between-class variance.

    Raises:
        DataError: no value stands out.
    """
    counts = np.bincount(values, minlength=256).astype(np.float64)
    if not counts[MIN_CONTRAST:].any() or np.count_nonzero(counts) == 1:
        raise DataError(NO_STROKES)
    below, sums = np.cumsum(counts), np.cumsum(counts * np.arange(256))
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (sums * below[-1] - below * sums[-1]) ** 2 / (below * above)
    return max(int(np.nanargmax(between)), MIN_CONTRAST // 2)


def _remove_lines(mask: np.ndarray) -> np.ndarray:
    """Return a mask without frames and ruled lines: those that span the image or run along an edge.

    Pixels where a stroke crosses a line are kept. A single line may be a stroke of a digit that
    fills the image; `_is_stroke` decides.
    """
    horizontal = _horizontal_lines(mask)
    lines = [*horizontal, *(line.T for line in _horizontal_lines(mask.T))]
    if not lines:
        return mask
    rest: np.ndarray = mask & ~np.logical_or.reduce(lines)
    if len(lines) > 1:
        return rest
    return mask if _is_stroke(lines[0], rest, 1 if horizontal else 0) else rest


def _horizontal_lines(mask: np.ndarray) -> list[np.ndarray]:
    """Return each horizontal line's mask, bool `[H, W]`, without the pixels where strokes cross."""
    height, width = mask.shape
    closed = ndimage.grey_closing(mask.view(np.uint8), (1, max(3, width // 16)))
    runs = ndimage.grey_opening(closed, (1, max(3, width // 8)))
    labels, count = ndimage.label(runs, _WITH_DIAGONALS)
    lines = []
    lengths = [box[1].stop - box[1].start for box in ndimage.find_objects(labels)]
    for label in (label for label in range(1, count + 1) if 2 * lengths[label - 1] > width):
        line = labels == label
        rows, columns = np.flatnonzero(line.any(1)), np.flatnonzero(line.any(0))
        gap = max(int(columns[0]), width - 1 - int(columns[-1]))  # to the farther side
        spans = gap <= 1 + width // 50 and 10 * len(columns) >= 9 * width
        at_edge = min(int(rows[-1]), height - 1 - int(rows[0])) < max(1, height // 12)
        if spans or (at_edge and 10 * len(columns) >= 6 * width):
            thickness = int(np.median(line.sum(0)[columns]))
            reach = 2 * (thickness + 2) + 1
            around = ndimage.binary_dilation(line, np.ones((reach, 1), bool)) & mask
            crossed = around.sum(0) > thickness + 2 + thickness // 2
            lines.append(ndimage.binary_dilation(line, np.ones((3, 1), bool)) & mask & ~crossed)
    return lines


def _is_stroke(line: np.ndarray, rest: np.ndarray, axis: int) -> bool:
    """Tell whether the only line, along `axis`, is a stroke of a digit that fills the image.

    It is if there is nothing else; or if it touches the largest other component, and that starts or
    ends near the image's edge as the line does, or both span the image across the line. A ruled
    line runs on beyond a digit on both sides.
    """
    if not rest.any():
        return True
    largest, box = max(_components(rest), key=lambda component: int(component[0].sum()))
    touching = ndimage.binary_dilation(line, _WITH_DIAGONALS)[box] & largest
    near = 1 + line.shape[axis] // 12
    ends = box[axis].start <= near or box[axis].stop >= line.shape[axis] - near
    extent = np.flatnonzero((rest | line).any(axis))
    fills = 20 * (int(np.ptp(extent)) + 1) >= 19 * line.shape[1 - axis]
    return bool(touching.any()) and (ends or fills)


def _components(mask: np.ndarray) -> Iterator[tuple[np.ndarray, tuple[slice, slice]]]:
    """Yield each connected component, bool, cropped to its bounding box, and that box."""
    labels, _ = ndimage.label(mask, _WITH_DIAGONALS)
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        yield labels[box] == number, box


def _select_components(mask: np.ndarray) -> np.ndarray:
    """Return the mask of the digit: the largest component and other large ones near it.

    Near is within its box, enlarged on each side by a third of its longer side.
    Pixels at the image's edge do not count: ends of lines and parts of other digits are there.

    Raises:
        DataError: there is no component.
    """
    edge = max(1, min(mask.shape) // 20)
    inner = np.zeros(mask.shape, bool)
    inner[edge:-edge, edge:-edge] = mask[edge:-edge, edge:-edge]
    components = list(_components(mask))
    if not components:
        raise DataError(NO_STROKES)
    areas = [int((inner[box] & component).sum()) for component, box in components]
    main, largest = max(zip(components, areas, strict=True), key=lambda pair: pair[1])
    margin = max(main[0].shape) // 3
    digit = np.zeros(mask.shape, bool)
    digit[main[1]] |= main[0]
    for (component, box), area in zip(components, areas, strict=True):
        # Neither cut off by the edge, nor a line that comes from there.
        whole = 2 * area > int(component.sum()) and 2 * max(component.shape) < min(mask.shape)
        near = all(
            side.start >= of_main.start - margin and side.stop <= of_main.stop + margin
            for side, of_main in zip(box, main[1], strict=True)
        )
        if 8 * area >= largest and whole and near:
            digit[box] |= component
    return digit


def _crop_digit(ink: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the digit's mask, cropped, bool `[h, w]`, enlarged to at least `WORKING_SIDE` pixels.

    A small digit is enlarged with its grey levels, which locate an edge within a pixel.
    """
    cropped = _crop(mask)
    longest = max(cropped.shape)
    if longest >= WORKING_SIDE:
        return cropped
    grey = np.where(ndimage.binary_dilation(mask, _WITH_DIAGONALS), ink, 0).astype(np.int64)
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
    inside = _edge_distances(padded)
    # On average, a stroke's pixels are a quarter of its width away from its edge.
    width = 4 * int(inside.sum()) // np.count_nonzero(digit) - 2 * DISTANCE_UNIT
    if width < MIN_WIDTH * longest:
        padded = _edge_distances(~padded) <= (WIDENED * longest - width) // 2
    elif width > MAX_WIDTH * longest:
        padded = inside > (width - MAX_WIDTH * longest) // 2
    return _crop(padded)


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
