"""Find the digit of a photograph: on a sheet, across a shadow, or filling the image.

Each of these is tried with a ground of its own, until the digit stands by itself on it.
"""

from contextlib import suppress

import numpy as np

from image_pipeline.common.errors import DataError
from image_pipeline.prediction.ink import (
    extract_ink,
    extract_level,
    fills_image,
    find_sheets,
    is_light_on_dark,
)
from image_pipeline.prediction.stroke_width import DISTANCE_UNIT, stroke_width
from image_pipeline.prediction.strokes import (
    AT_EDGE,
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
                narrow = max(5, 3 * stroke_width(digit.mask) // DISTANCE_UNIT)
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
