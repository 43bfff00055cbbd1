"""A photograph or scan of a digit, brought to the form of MNIST's images.

MNIST's authors (LeCun et al. 1998, "Gradient-based learning applied to document recognition")
scaled each digit, proportions kept, into a box of 20 x 20 pixels, whose greys come from that
scaling alone, and put it into 28 x 28 with its centre of mass in the middle: white strokes on
black.

What comes before is for paper and cameras: which of ink and ground is darker, uneven light, where
the strokes are among specks, ruled lines, frames and shadows, how wide a pen has drawn them.

The same bits on every x86-64 machine: whole numbers, but for single sums, products, quotients and
square roots of doubles, which every processor rounds alike; no sum of doubles depends on its order.
"""

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from PIL import Image
from scipy import ndimage

from image_pipeline.common.errors import DataError

SIDE = 28  # pixels of MNIST's images
BOX = 20  # of the box that holds the digit
LONGEST = 512  # pixels of a photograph's longer side that are looked at
SMOOTHED = 160  # from this length on an image is smoothed, against the noise of a camera
SPAN = 1 << 10  # of the coordinates of a surface
COARSE = 24  # pixels of its longer side, to tell ink from ground
SMALLEST = 8  # pixels of a photograph's shorter side
FAINTEST = 24  # how much of 255 ink must differ from the ground

FINE = 80  # pixels of a digit's longer side, at least, where strokes are widened and narrowed
UNIT = 256  # parts of a pixel, for distances in whole numbers
# Widths of strokes, in 256ths of the digit's longer side. Of MNIST's, 5% are thinner than the first
# number and 5% thicker than the last; thinner ones are widened to the second, which 25% undercut.
THIN, WIDTH, THICK = 20, 26, 47

NOTHING = (
    "no strokes found: a photograph or scan of one digit is expected, drawn in one ink that "
    "stands out from its ground; take the picture closer or in better light"
)

_EIGHT = np.ones((3, 3), bool)  # neighbours of a pixel, corners included
_POSITIONS = np.arange(SIDE)


def is_in_mnist_form(image: np.ndarray) -> bool:
    """Tell whether an image is a digit as MNIST has them, and so needs no preparation.

    28 x 28 pixels, white on a black ground, the digit as large as MNIST's and in the middle. All
    70,000 images of MNIST are.

    Args:
        image: uint8 `[H, W]` or `[H, W, 3]`.
    """
    if image.shape[:2] != (SIDE, SIDE):
        return False
    if image.ndim == 3:
        if bool((image != image[..., :1]).any()):
            return False
        image = image[..., 0]
    ink = np.where(image < 32, 0, image)  # what JPEG adds to black left out
    if int(ink.max()) < 128 or np.count_nonzero(ink) > SIDE * SIDE // 2:
        return False
    sums = [ink.sum(axis, dtype=np.int64) for axis in (0, 1)]
    inked = [np.flatnonzero(one) for one in sums]
    longest = int(max(one[-1] - one[0] for one in inked)) + 1
    total = int(sums[0].sum())
    # Doubled, so that the middle is a whole number: 27 between the first and the last pixel.
    away = [abs(2 * int(one @ _POSITIONS) - (SIDE - 1) * total) for one in sums]
    return BOX - 2 <= longest <= SIDE - 4 and max(away) <= 5 * total


def to_mnist(image: np.ndarray, *, deskew: bool = False) -> np.ndarray:
    """Bring a photograph or scan of one digit to MNIST's form.

    Args:
        image: uint8 `[H, W]` (grey) or `[H, W, 3]` (RGB), any size and place of the digit, dark on
            light or light on dark.
        deskew: shear the digit until it stands upright.

    Returns:
        uint8 `[28, 28]`, white on black.

    Raises:
        DataError: the image is blank, or too small or too faint to show strokes.
    """
    if min(image.shape[:2]) < SMALLEST:
        raise DataError(NOTHING)
    ink = _ink(_reduced(image))
    strokes = _strokes(ink)
    return _placed(_drawn(ink, strokes, deskew=deskew))


def _reduced(image: np.ndarray) -> np.ndarray:
    """Average whole blocks of pixels until the longer side is no longer than `LONGEST`."""
    factor = -(-max(image.shape[:2]) // LONGEST)
    if factor == 1:
        return image
    factors = (min(factor, image.shape[1]), min(factor, image.shape[0]))
    return np.asarray(Image.fromarray(image).reduce(factors))


def _ink(image: np.ndarray) -> np.ndarray:
    """Return how much of the ground's light each pixel lacks, uint8 `[H, W]`: ink is bright.

    Coloured ink counts in the channel where it shows most.
    """
    channels = [image] if image.ndim == 2 else list(np.moveaxis(image, 2, 0))
    if max(image.shape[:2]) > SMOOTHED:
        channels = [ndimage.uniform_filter(channel, 3) for channel in channels]
    if _is_light_on_dark(channels):
        channels = [255 - channel for channel in channels]
    ink: np.ndarray = np.maximum.reduce([_lack(channel) for channel in channels])
    return ink


def _is_light_on_dark(channels: list[np.ndarray]) -> bool:
    """Tell whether what differs from its ground is lighter than that, not darker."""
    small = _coarse(np.stack(channels).sum(0, dtype=np.int64) // len(channels))
    differs = (small - _surface(small, small.shape)).astype(np.int64)
    return int((differs**2 * np.sign(differs)).sum()) > 0


def _lack(channel: np.ndarray) -> np.ndarray:
    """Divide a channel by its ground, which is what remains when narrow things are filled up.

    First by a smooth surface, for light that falls from a side; then by what is left of shadows.
    """
    ground = np.maximum(_surface(_coarse(channel), channel.shape), 1)
    level = np.minimum(channel.astype(np.int64) * 192 // ground, 255).astype(np.uint8)
    window = max(5, min(channel.shape) // 3) | 1
    filled = ndimage.uniform_filter(ndimage.grey_closing(level, (window, window)), window // 2 | 1)
    ground = np.maximum(filled, np.maximum(level, 1)).astype(np.int64)
    lack: np.ndarray = ((ground - level) * 255 // ground).astype(np.uint8)
    return lack


def _coarse(grey: np.ndarray) -> np.ndarray:
    """Average whole blocks of pixels until the longer side has no more than `COARSE`; int64."""
    image = Image.fromarray(grey.astype(np.uint8))
    return np.asarray(image.reduce(-(-max(grey.shape) // COARSE))).astype(np.int64)


def _surface(small: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the ground as a polynomial of second degree in both directions, int64 of a shape.

    Least squares, and again without the third of the pixels that it fits worst: strokes and frames.
    """
    terms = _terms(small.shape)
    used = np.ones(small.shape, bool)
    for _ in range(4):
        chosen, values = [term[used] for term in terms], small[used]
        weights = _solved(
            [[int(one @ other) for other in chosen] + [int(one @ values)] for one in chosen]
        )
        away = abs(small - sum(w * term for w, term in zip(weights, terms, strict=True)))
        used = away <= np.sort(away, axis=None)[away.size * 2 // 3]
    fitted = sum(w * term for w, term in zip(weights, _terms(shape), strict=True))
    return np.clip(np.rint(fitted), 0, 255).astype(np.int64)


def _terms(shape: tuple[int, ...]) -> list[np.ndarray]:
    """Return 1, y, x, yy, xy, xx over an image, int64 `[H, W]`, from -1024 to 1024 and squares."""
    y, x = (
        np.broadcast_to(
            np.expand_dims(((2 * np.arange(side) + 1) * SPAN // side) - SPAN, 1 - axis), shape
        )
        for axis, side in enumerate(shape)
    )
    return [np.full(shape, SPAN), y, x, y * y // SPAN, x * y // SPAN, x * x // SPAN]


def _solved(rows: list[list[int]]) -> list[float]:
    """Solve linear equations by elimination, exactly until the last step."""
    matrix = [[Fraction(value) for value in row] for row in rows]
    for pivot, row in enumerate(matrix):
        row[:] = [value / row[pivot] for value in row]
        for other in matrix:
            if other is not row and other[pivot]:
                factor = other[pivot]
                other[:] = [a - factor * b for a, b in zip(other, row, strict=True)]
    return [float(row[-1]) for row in matrix]


def _strokes(ink: np.ndarray) -> np.ndarray:
    """Return which pixels are the digit's, bool `[H, W]`."""
    kept = np.ones(ink.shape, bool)
    for _ in range(2):  # the second time without the frames, which are often darker than the digit
        mask = kept & (ink > _threshold(ink[kept]))
        lines = mask & ~_without_lines(mask)
        kept &= ndimage.maximum_filter(lines.view(np.uint8), 5) == 0
    return _digit(kept & mask)


def _threshold(values: np.ndarray) -> int:
    """Return Otsu's threshold: ink and ground, each as uniform as can be.

    Raises:
        DataError: no value stands out.
    """
    counts = np.bincount(values, minlength=256).astype(np.float64)
    if not counts[FAINTEST:].any() or np.count_nonzero(counts) == 1:
        raise DataError(NOTHING)
    below, sums = np.cumsum(counts), np.cumsum(counts * np.arange(256))
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (sums * below[-1] - below * sums[-1]) ** 2 / (below * above)
    return max(int(np.nanargmax(between)), FAINTEST // 2)


def _without_lines(mask: np.ndarray) -> np.ndarray:
    """Return a mask without frames and ruled lines, which run from edge to edge, or along one.

    Where a stroke crosses a line it stays. A single line may be a stroke itself, of a digit that
    fills the image: see `_is_stroke`.
    """
    level, upright = _level_lines(mask), [line.T for line in _level_lines(mask.T)]
    lines = [*level, *upright]
    if not lines:
        return mask
    left: np.ndarray = mask & ~np.logical_or.reduce(lines)
    if len(lines) > 1:
        return left
    return mask if _is_stroke(lines[0], left, 1 if level else 0) else left


def _level_lines(mask: np.ndarray) -> list[np.ndarray]:
    """Return the pixels of each level line, bool `[H, W]`, but for those that a stroke crosses."""
    height, width = mask.shape
    gapless = ndimage.grey_closing(mask.view(np.uint8), (1, max(3, width // 16)))
    runs = ndimage.grey_opening(gapless, (1, max(3, width // 8)))
    joined, number = ndimage.label(runs, _EIGHT)
    lines = []
    lengths = [box[1].stop - box[1].start for box in ndimage.find_objects(joined)]
    for index in (index for index in range(1, number + 1) if 2 * lengths[index - 1] > width):
        found = joined == index
        rows, columns = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
        from_edge = max(int(columns[0]), width - 1 - int(columns[-1]))
        across = from_edge <= 1 + width // 50 and 10 * len(columns) >= 9 * width
        at_rim = min(int(rows[-1]), height - 1 - int(rows[0])) < max(1, height // 12)
        if across or (at_rim and 10 * len(columns) >= 6 * width):
            thickness = int(np.median(found.sum(0)[columns]))
            reach = 2 * (thickness + 2) + 1
            around = ndimage.binary_dilation(found, np.ones((reach, 1), bool)) & mask
            crossed = around.sum(0) > thickness + 2 + thickness // 2
            lines.append(ndimage.binary_dilation(found, np.ones((3, 1), bool)) & mask & ~crossed)
    return lines


def _is_stroke(line: np.ndarray, left: np.ndarray, axis: int) -> bool:
    """Tell whether a line along an axis is a stroke of a digit that fills the image.

    Then it hangs together with the digit's other strokes, or is all of it; and they begin or end
    where it does, while lines of the paper run on beyond a digit, or reach the opposite edge.
    """
    if not left.any():
        return True
    rest, box = max(_components(left), key=lambda part: int(part[0].sum()))
    touched = ndimage.binary_dilation(line, _EIGHT)[box] & rest
    near = 1 + line.shape[axis] // 12
    ends = box[axis].start <= near or box[axis].stop >= line.shape[axis] - near
    whole = np.flatnonzero((left | line).any(axis))
    fills = 20 * (int(np.ptp(whole)) + 1) >= 19 * line.shape[1 - axis]
    return bool(touched.any()) and (ends or fills)


def _components(mask: np.ndarray) -> Iterator[tuple[np.ndarray, tuple[slice, slice]]]:
    labels, _ = ndimage.label(mask, _EIGHT)
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        yield labels[box] == number, box


def _digit(mask: np.ndarray) -> np.ndarray:
    """Return the part of a mask that is the digit: its greatest component, and large ones beside.

    What lies at the image's rim counts less: there are the ends of lines and of other digits.

    Raises:
        DataError: there is none.
    """
    rim = max(1, min(mask.shape) // 20)
    inner = np.zeros(mask.shape, bool)
    inner[rim:-rim, rim:-rim] = mask[rim:-rim, rim:-rim]
    parts = list(_components(mask))
    if not parts:
        raise DataError(NOTHING)
    areas = [int((inner[box] & part).sum()) for part, box in parts]
    main, largest = max(zip(parts, areas, strict=True), key=lambda pair: pair[1])
    near = _grown(main[1], mask.shape)
    digit = np.zeros(mask.shape, bool)
    digit[main[1]] |= main[0]
    for (part, box), area in zip(parts, areas, strict=True):
        # Not the end of something that lies outside, nor a line that comes from there.
        whole = 2 * area > int(part.sum()) and 2 * max(part.shape) < min(mask.shape)
        if 8 * area >= largest and whole and _within(box, near):
            digit[box] |= part
    return digit


def _grown(box: tuple[slice, slice], shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Return a box with a third of its longer side around it."""
    by = max(side.stop - side.start for side in box) // 3
    rows, columns = (
        slice(max(0, side.start - by), min(end, side.stop + by))
        for side, end in zip(box, shape, strict=True)
    )
    return rows, columns


def _within(box: tuple[slice, slice], other: tuple[slice, slice]) -> bool:
    return all(a.start >= b.start and a.stop <= b.stop for a, b in zip(box, other, strict=True))


def _drawn(ink: np.ndarray, strokes: np.ndarray, *, deskew: bool) -> np.ndarray:
    """Return the digit, uint8 `[h, w]`, its longer side `BOX` pixels long."""
    digit = _fine(ink, strokes)
    if deskew:
        digit = _upright(digit)
    digit = _cropped(_of_usual_width(digit))
    longest = max(digit.shape)
    height, width = (max(1, (2 * side * BOX + longest) // (2 * longest)) for side in digit.shape)
    grey = Image.fromarray(digit.astype(np.uint8) * 255)
    return np.asarray(grey.resize((width, height), Image.Resampling.BOX))


def _fine(ink: np.ndarray, strokes: np.ndarray) -> np.ndarray:
    """Return the strokes cut out, bool `[H, W]`, the longer side `FINE` or more pixels long.

    A small digit is enlarged with its greys, which tell where within a pixel an edge lies.
    """
    cut = _cropped(strokes)
    longest = max(cut.shape)
    if longest >= FINE:
        return cut
    soft = np.where(ndimage.binary_dilation(strokes, _EIGHT), ink, 0).astype(np.int64)
    full = int(np.sort(ink[strokes])[np.count_nonzero(strokes) // 2])
    soft = np.pad(np.minimum(soft * 255 // full, 255).astype(np.uint8), 1)
    size = [(2 * side * FINE + longest) // (2 * longest) for side in reversed(soft.shape)]
    enlarged = Image.fromarray(soft).resize((size[0], size[1]), Image.Resampling.BICUBIC)
    return _cropped(np.asarray(enlarged) > 127)


def _cropped(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _of_usual_width(digit: np.ndarray) -> np.ndarray:
    """Widen strokes that are thinner than most of MNIST's, narrow those that are thicker."""
    longest = max(digit.shape)
    margin = longest * WIDTH // 256 + 1
    padded = np.pad(digit, margin)
    inside = _distances(padded)
    # A stroke's pixels are a quarter of its width away from its edge, on average.
    width = 4 * int(inside.sum()) // np.count_nonzero(digit) - 2 * UNIT
    if width < THIN * longest:
        padded = _distances(~padded) <= (WIDTH * longest - width) // 2
    elif width > THICK * longest:
        padded = inside > (width - THICK * longest) // 2
    return padded


def _distances(mask: np.ndarray) -> np.ndarray:
    """Return how far each pixel of a mask is from those outside, in `UNIT`s of a pixel, int64."""
    distances: np.ndarray = ndimage.distance_transform_edt(mask) * UNIT
    return distances.astype(np.int64)


def _upright(digit: np.ndarray) -> np.ndarray:
    """Shear a digit along its rows until its moments say that it stands upright."""
    rows, columns = np.nonzero(digit)
    count = len(rows)
    down = rows * count - int(rows.sum())  # count times the distance from the centre
    slant, spread = int((down * columns).sum()), int((down * rows).sum())
    height, width = digit.shape
    shifts = [
        -(slant * (2 * row - height)) // (2 * spread) if spread else 0 for row in range(height)
    ]
    sheared = np.zeros((height, width + max(shifts) - min(shifts)), bool)
    for row, shift in enumerate(shifts):
        start = shift - min(shifts)
        sheared[row, start : start + width] = digit[row]
    return _cropped(sheared)


def _placed(digit: np.ndarray) -> np.ndarray:
    """Put a digit into 28 x 28 pixels, its centre of mass as near to the middle as they allow."""
    total = int(digit.sum(dtype=np.int64))
    corner = []
    for axis, side in enumerate(digit.shape):
        mass = digit.sum(1 - axis, dtype=np.int64)
        centre = int(mass @ (2 * np.arange(side) + 1))  # twice the centre, times the total
        wanted = (SIDE * total - centre + total) // (2 * total)
        corner.append(min(max(wanted, 0), SIDE - side))
    image = np.zeros((SIDE, SIDE), np.uint8)
    image[corner[0] : corner[0] + digit.shape[0], corner[1] : corner[1] + digit.shape[1]] = digit
    return image
