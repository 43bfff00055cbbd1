"""Find the digit of a photograph: on a sheet, across a shadow, or filling the image.

Each of these is tried with a ground of its own, until the digit stands by itself on it.
"""

from contextlib import suppress

import numpy as np
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
from image_pipeline.prediction.stroke_width import DISTANCE_UNIT, stroke_width
from image_pipeline.prediction.strokes import (
    AT_EDGE,
    MIN_CONTRAST,
    NO_STROKES,
    UNEVEN,
    Digit,
    find_digit,
)

WINDOWS = (3, 6, 12)  # parts of the shorter side that the ground is closed over, one after another

Found = tuple[np.ndarray, Digit]  # the ink, uint8 `[H, W]`, and the digit in it


def find_digit_and_ink(image: np.ndarray) -> Found:
    """Return the ink, uint8 `[H, W]`, and the digit in it: on a sheet if there is one."""
    polarity = fills_image(image)
    if polarity is not None:
        levels = extract_level(image, light_on_dark=polarity)
        ink = extract_ink(levels, max(image.shape[:2]) // 2, fills=True)
        filling = find_digit(ink, levels, fills=True)
        level = levels.min(0)
        darker = level < int(np.median(level[filling.mask])) - MIN_CONTRAST
        if 500 * int(darker.sum()) > darker.size:
            with suppress(DataError):
                finer, digit = _find_on_ground(image, polarity)
                one, other = (finer, digit), (ink, filling)
                if (
                    not digit.doubts
                    and _is_darker(digit, filling, levels)
                    and not _is_far_fainter(one, other)
                ):
                    return one  # and the other is a shadow that spans the image
        return ink, filling
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
                if whole and _is_lit_part(sheet, (ink, digit), whole, dark):
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
        if light and not (dark and _is_plain(dark[1]) and _looks_drawn(dark, light)):
            return light
        if dark:
            return dark
    return _find_on_ground(image, False)


def _looks_drawn(one: Found, other: Found) -> bool:
    """Tell whether one of two digits looks more like strokes than the other does.

    The other is far fainter, ends near the rim as a ground does, or has strokes that are wider for
    its size; or, if nothing tells them apart, lies in the box of the one.
    """
    (strength, gap, width), (strength2, gap2, width2) = _appearance(one), _appearance(other)
    if 5 * min(strength, strength2) < 2 * max(strength, strength2):
        return strength > strength2
    if _is_plain(other[1]) and min(gap, gap2) < 40 and max(gap, gap2) > 80:
        return gap > gap2
    if 6 * min(width, width2) <= 5 * max(width, width2):
        return width < width2
    return all(
        inner.min() >= outer.min() and inner.max() <= outer.max()
        for outer, inner in zip(np.nonzero(one[1].mask), np.nonzero(other[1].mask), strict=True)
    )


def _appearance(found: Found) -> tuple[int, int, int]:
    """Return the ink's median, the gap to the rim, and the width of the strokes.

    The gap is in thousandths of the image's side, the width in `DISTANCE_UNIT`ths of the digit's
    longer side.
    """
    ink, mask = found[0], found[1].mask
    gaps, sides = [], []
    for positions, length in zip(np.nonzero(mask), mask.shape, strict=True):
        first, last = int(positions.min()), int(positions.max())
        gaps.append(1000 * min(first, length - 1 - last) // length)
        sides.append(last + 1 - first)
    return int(np.median(ink[mask])), min(gaps), stroke_width(mask) // max(sides)


def _is_darker(one: Digit, other: Digit, levels: np.ndarray) -> bool:
    """Tell whether one digit's ink is clearly darker than the other's."""
    level = levels.min(0)
    return int(np.median(level[one.mask])) + MIN_CONTRAST < int(np.median(level[other.mask]))


def _is_lit_part(sheet: np.ndarray, found: Found, whole: Found, dark: bool) -> bool:
    """Tell whether what was taken for a sheet is only the lit part of one, or its shadow.

    Then the digit that was found without it goes on beyond it, in ink as strong.
    """
    digit, other = found[1], whole[1]
    if other.doubts:
        return False
    both = digit.mask & other.mask
    shared = int(both.sum())
    labels, _ = ndimage.label(other.mask, WITH_DIAGONALS)
    strokes = np.isin(labels, labels[both])
    if 10 * shared >= 9 * int(digit.mask.sum()) and 5 * shared <= 4 * int(strokes.sum()):
        return True
    if dark:
        return 2 * int((other.mask & sheet).sum()) < int(sheet.sum())
    return (
        2 * shared >= int(digit.mask.sum())
        and 50 * int((other.mask & ~sheet).sum()) >= shared
        and _is_strong(whole, found)
    )


def _is_strong(one: Found, other: Found) -> bool:
    """Tell whether the ink of one digit is about as strong as the other's, or stronger."""
    strengths = [int(np.median(ink[digit.mask])) for ink, digit in (one, other)]
    return 4 * strengths[0] >= 3 * strengths[1]


def _is_far_fainter(one: Found, other: Found) -> bool:
    """Tell whether the ink of one digit is far fainter than the other's."""
    strengths = [int(np.median(ink[digit.mask])) for ink, digit in (one, other)]
    return 5 * strengths[0] < 2 * strengths[1]


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
                found = _find_in_window(levels, window, sheet, darkest)
            except DataError:  # such as a band of shadow, which was taken for a line
                continue
            digit = found[1]
            # What is far fainter may be what is left of strokes that are wider than the window.
            if _is_plain(digit) and not (first and _is_far_fainter(found, first)):
                # Less of a shadow is narrower than a narrower window; nothing of a band of shadow.
                narrow = max(5, 3 * stroke_width(digit.mask) // DISTANCE_UNIT)
                wide = 4 * narrow >= 3 * window
                with suppress(DataError):
                    narrower = max(5, window // 2) if wide else narrow
                    again = _find_in_window(levels, narrower, sheet, darkest)
                    if _is_plain(again[1]) and (
                        _is_darker(again[1], digit, levels) if wide else _is_strong(again, found)
                    ):
                        return again
                return found
            first = first or found
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
