"""Which of an image's marks are the strokes of the digit.

Frames, ruled lines and specks are left out, which is said; strokes of one digit are joined if they
are close together; and what is left, such as a second digit, makes the result doubtful.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from image_pipeline.common.errors import DataError
from image_pipeline.prediction.ink import DARK, otsu_threshold, rectangle_area
from image_pipeline.prediction.lines import WITH_DIAGONALS, remove_lines
from image_pipeline.prediction.stroke_width import stroke_width

MIN_CONTRAST = 24  # how much of 255 the ink must differ from the ground

NO_STROKES = (
    "no strokes found: a photograph or scan of one digit is expected, drawn in one ink that "
    "stands out from its background; take the picture closer or in better light"
)
SEVERAL = "several marks of like size"
SIDE_BY_SIDE = "two marks side by side were joined"
AT_EDGE = "its strokes touch an edge"
UNEVEN = "no plain ground"
BLOB = "a blot, not strokes"
LINES = "a line is like its strokes"
BUSY = "there is more ink beside it than in it"


@dataclass(frozen=True)
class Digit:
    """The digit that was found in an image.

    Attributes:
        mask: of its pixels, bool `[H, W]`.
        doubts: why it may not be the digit that was meant, in words.
        left_out: what else is in the image, in words.
        joined: whether it is of several marks, joined as its strokes.
    """

    mask: np.ndarray
    doubts: tuple[str, ...]
    left_out: tuple[str, ...]
    joined: bool


@dataclass(frozen=True, eq=False)
class _Mark:
    """A connected component: its mask, cropped to its box, the box, and its number of pixels."""

    mask: np.ndarray
    box: tuple[slice, slice]
    area: int

    @property
    def longest(self) -> int:
        return int(max(self.mask.shape))


def find_digit(
    ink: np.ndarray,
    levels: np.ndarray,
    *,
    fills: bool = False,
    sheet: np.ndarray | None = None,
    darkest: bool = False,
) -> Digit:
    """Find the strokes of the digit.

    Args:
        ink: of the image, uint8 `[H, W]`.
        levels: that the ink comes from, uint8 `[C, H, W]`, with dark ink.
        fills: whether the digit fills the image; its strokes may then touch the rim.
        sheet: the only pixels where it can be, bool `[H, W]`.
        darkest: whether only the darker of two kinds of ink is the digit's.

    Raises:
        DataError: there are none.
    """
    kept = np.ones(ink.shape, bool) if sheet is None else sheet
    lines = np.zeros(ink.shape, bool)
    for _ in range(1 if fills else 2):  # the second time without frames, often the darkest
        threshold = _threshold(ink[kept])
        if darkest:
            threshold = max(threshold, otsu_threshold(ink[kept & (ink > threshold)]))
        mask = kept & (ink > threshold)
        if not fills:
            found = mask & ~remove_lines(mask)
            lines |= found
            kept = kept & (ndimage.maximum_filter(found.view(np.uint8), 5) == 0)
    marks, specks = _marks(kept & mask)
    if not marks:
        raise DataError(NO_STROKES)
    cut_off = [] if fills else [mark for mark in marks if _is_cut_off(mark, sheet, ink.shape)]
    whole = [mark for mark in marks if mark not in cut_off]
    level = levels.min(0)
    main = next((m for m in whole[:4] if fills or _is_enclosed(m, ink, level)), None)
    doubts = []
    largest = max(marks, key=lambda mark: _inner_area(mark, ink.shape))
    if main is None or (4 if sheet is None else 2) * main.area < _inner_area(largest, ink.shape):
        doubts.append(UNEVEN if largest in whole else AT_EDGE)
        main, whole = largest, [largest, *(mark for mark in whole if mark is not largest)]
    if AT_EDGE not in doubts and any(mark in cut_off for mark in _join(main, marks)):
        doubts.append(AT_EDGE)
    strokes = _join(main, whole)
    others = [mark for mark in whole if mark not in strokes]
    doubts += _doubts(strokes, [m for m in others if 2 * _inner_area(m, ink.shape) >= m.area])
    rest = sum(_inner_area(mark, ink.shape) for mark in marks if mark not in strokes)
    if sheet is None and rest > sum(mark.area for mark in strokes):
        doubts.append(BUSY)
    left_out = ["lines"] if lines.any() else []
    cut = len(marks) - len(whole)
    for what, count in (("cut-off mark", cut), ("mark", len(others)), ("speck", specks)):
        if count:
            left_out.append(f"{count} {what}{'s' if count > 1 else ''}")
    digit = np.zeros(ink.shape, bool)
    for mark in strokes:
        digit[mark.box] |= mark.mask
    if _has_strokes(lines, digit, ink):
        doubts.append(LINES)
    if _is_blot(main.mask):
        doubts.append(BLOB)
    return Digit(digit, tuple(doubts), tuple(left_out), len(strokes) > 1)


def _is_enclosed(mark: _Mark, ink: np.ndarray, level: np.ndarray) -> bool:
    """Tell whether a mark is darker than what surrounds it, on nearly all sides.

    What is left of a shadow, or of the edges of a broad stroke, is not.
    """
    reach = 4
    padded = np.pad(mark.mask, reach)
    box = tuple(slice(side.start, side.stop + 2 * reach) for side in mark.box)
    around = np.pad(level, reach, mode="edge")[box].astype(np.int64)
    near = ndimage.minimum_filter(np.where(padded, around, 255), 2 * reach + 1)
    grown = ndimage.binary_dilation(padded, WITH_DIAGONALS, reach - 1)
    ring = grown & ~ndimage.binary_dilation(padded, WITH_DIAGONALS, reach - 2)
    typical = int(np.median(ink[mark.box][mark.mask]))
    lighter = 255 * 5 * (around - near) >= 2 * typical * (around + DARK)
    return 4 * int((ring & lighter).sum()) >= 3 * int(ring.sum())


def _has_strokes(lines: np.ndarray, digit: np.ndarray, ink: np.ndarray) -> bool:
    """Tell whether a line touches a digit, and is about as thick and as dark as its strokes."""
    near = ndimage.binary_dilation(digit, WITH_DIAGONALS, 3)
    labels, _ = ndimage.label(lines, WITH_DIAGONALS)
    width, strength = stroke_width(digit), int(np.median(ink[digit]))
    for label in np.unique(labels[near & lines]):
        line = labels == label
        if 3 * stroke_width(line) >= 2 * width and 3 * int(np.median(ink[line])) >= 2 * strength:
            return True
    return False


def _threshold(values: np.ndarray) -> int:
    """Return the threshold between ink and ground.

    Raises:
        DataError: no value stands out.
    """
    if not values.size or values.max() < MIN_CONTRAST or values.min() == values.max():
        raise DataError(NO_STROKES)
    return max(otsu_threshold(values), MIN_CONTRAST // 2)


def _marks(mask: np.ndarray) -> tuple[list[_Mark], int]:
    """Return the connected components, the largest first, without specks; and their number."""
    labels, _ = ndimage.label(mask, WITH_DIAGONALS)
    areas = np.bincount(labels.ravel())
    boxes = ndimage.find_objects(labels)
    largest = int(areas[1:].max()) if len(areas) > 1 else 0
    marks = [
        _Mark(labels[boxes[number - 1]] == number, boxes[number - 1], int(areas[number]))
        for number in np.argsort(-areas[1:], kind="stable") + 1
        if 100 * int(areas[number]) >= largest
    ]
    return marks, len(boxes) - len(marks)


def _is_cut_off(mark: _Mark, sheet: np.ndarray | None, shape: tuple[int, ...]) -> bool:
    """Tell whether a mark is, or may go on, beyond the edge of the image or of the sheet."""
    edge = max(1, min(shape) // 100)
    if any(
        side.start < edge or side.stop > length - edge
        for side, length in zip(mark.box, shape, strict=True)
    ):
        return True
    if sheet is None:
        return False
    grown = tuple(slice(side.start - 1, side.stop + 1) for side in mark.box)
    touching = ndimage.binary_dilation(np.pad(mark.mask, 1), WITH_DIAGONALS) & ~sheet[grown]
    return bool(touching.any())


def _is_blot(mask: np.ndarray) -> bool:
    """Tell whether a mark is too thick for strokes, or a rectangle: perhaps the sheet itself."""
    radius = float(ndimage.distance_transform_edt(np.pad(mask, 1)).max())
    filled = ndimage.binary_fill_holes(mask)
    return 100 * radius > 28 * max(mask.shape) or bool(
        max(mask.shape) < 2 * min(mask.shape)
        and 100 * mask.sum() >= 55 * filled.sum()
        and 100 * filled.sum() >= 84 * rectangle_area(filled)
    )


def _inner_area(mark: _Mark, shape: tuple[int, ...]) -> int:
    """Return the number of a mark's pixels that are not near the rim, where frames are."""
    strip = min(shape) // 16
    inner = tuple(
        slice(max(0, strip - side.start), max(0, length - strip - side.start))
        for side, length in zip(mark.box, shape, strict=True)
    )
    return int(mark.mask[inner].sum())


def _join(main: _Mark, marks: Sequence[_Mark]) -> list[_Mark]:
    """Return the main mark and those that are strokes of the same digit.

    A stroke is joined if its gap to the others is short, compared with the digit. A gap may be
    longer if the stroke is a bar above or below them, and must be shorter if it is beside them and
    as tall as a digit.
    """
    strokes, rest = [main], [mark for mark in marks if mark is not main]
    for _ in range(4):
        box = _box(strokes)
        height, width = (side.stop - side.start for side in box)
        longest = max(height, width)
        reach = longest // 3 + 4
        corner = tuple(max(0, side.start - reach) for side in box)
        around = np.zeros(
            tuple(side.stop + reach - start for side, start in zip(box, corner, strict=True)), bool
        )
        for stroke in strokes:
            around[_shifted(stroke.box, corner)] |= stroke.mask
        distances = ndimage.distance_transform_edt(~around)
        joined = []
        for mark in rest:
            place = _shifted(mark.box, corner)
            part = distances[place]
            inside = mark.mask[: part.shape[0], : part.shape[1]]
            if not part.size or (part.shape != mark.mask.shape and not inside.any()):
                continue
            gap = float(part[inside].min())
            beside = mark.box[1].start >= box[1].stop or mark.box[1].stop <= box[1].start
            flat = 2 * mark.mask.shape[0] <= height
            tall = beside and 5 * mark.mask.shape[0] > 3 * height
            allowed = max(3, longest * (10 if tall else 28 if flat and not beside else 20) // 100)
            if gap <= allowed and 30 * mark.area >= main.area:
                joined.append(mark)
        if not joined:
            break
        strokes += joined
        rest = [mark for mark in rest if mark not in joined]
    return strokes


def _box(marks: Sequence[_Mark]) -> tuple[slice, ...]:
    return tuple(
        slice(min(m.box[axis].start for m in marks), max(m.box[axis].stop for m in marks))
        for axis in (0, 1)
    )


def _shifted(box: tuple[slice, ...], corner: tuple[int, ...]) -> tuple[slice, ...]:
    """Return a box in the coordinates of an array that begins at a corner."""
    return tuple(
        slice(max(0, side.start - start), max(0, side.stop - start))
        for side, start in zip(box, corner, strict=True)
    )


def _doubts(strokes: Sequence[_Mark], others: Sequence[_Mark]) -> list[str]:
    box = _box(strokes)
    height, width = (side.stop - side.start for side in box)
    doubts = []
    if any(5 * mark.longest >= 2 * max(height, width) for mark in others):
        doubts.append(SEVERAL)
    for mark in strokes[1:]:
        first = strokes[0]
        apart = mark.box[1].start >= first.box[1].stop or mark.box[1].stop <= first.box[1].start
        shortest = min(mark.mask.shape[0], first.mask.shape[0])
        if apart and 4 * shortest >= 3 * height:
            doubts.append(SIDE_BY_SIDE)
            break
    return doubts
