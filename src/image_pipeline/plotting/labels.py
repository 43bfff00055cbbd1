"""Class names in plots: short, legible and distinct."""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from unicodedata import east_asian_width

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import findfont, get_font

from image_pipeline.plotting.figures import fonts

MAX_LABEL_LENGTH = 20  # characters of a class name that are shown
MAX_CLASSES = 100  # that a plot names; of more, it shows those at both ends
CLASSES_AT_AN_END = 30
INCHES_PER_LETTER = 0.09  # of a label, on average


def plain(text: str) -> str:
    """Escape `text` so that matplotlib shows it literally: dollar signs would start maths.

    Characters that the `fonts` lack, such as Thai, become code points, [0E01]: a fallback font, and
    so the plot, would differ between machines.
    """
    return _readable(text).replace("$", r"\$")


def _readable(text: str) -> str:
    return "".join(part if _has_glyph(part) else f"[{ord(part):04X}]" for part in text)


@cache
def _has_glyph(character: str) -> bool:
    code = ord(character)
    return character == "\n" or any(get_font(findfont(f)).get_char_index(code) for f in fonts())


def letters(text: str) -> int:
    """Return the width of `text` in letters; Chinese, Japanese and Korean ones count twice."""
    return len(text) + sum(east_asian_width(character) in "FW" for character in text)


def short_names(names: Sequence[str]) -> list[str]:
    """Return the names for plots: truncated if very long, with the label appended if ambiguous."""
    short = [
        f"{text[: MAX_LABEL_LENGTH - 1].rstrip()}…" if len(text) > MAX_LABEL_LENGTH else text
        for text in map(_readable, names)
    ]
    counts = Counter(short)
    return [f"{text} ({number})" if counts[text] > 1 else text for number, text in enumerate(short)]


def class_labels(names: Sequence[str]) -> list[str]:
    """Return the `short_names` as `plain` text."""
    return [plain(name) for name in short_names(names)]


def label_inches(labels: Sequence[str]) -> float:
    """Return the extra figure width for labels longer than a few letters."""
    return INCHES_PER_LETTER * max(0, max(map(letters, labels)) - 4)


def class_rows(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Choose the classes that a plot shows: all; of very many, those with the lowest and highest.

    Args:
        values: one per class `[classes]`.

    Returns:
        The classes shown, and the row of each: in order; or by value, with an empty row between
        the lowest and the highest.
    """
    if len(values) <= MAX_CLASSES:
        return np.arange(len(values)), np.arange(len(values))
    order = np.argsort(values, kind="stable")
    rows = np.arange(2 * CLASSES_AT_AN_END)
    rows[CLASSES_AT_AN_END:] += 1
    return np.delete(order, np.s_[CLASSES_AT_AN_END:-CLASSES_AT_AN_END]), rows


def note_left_out(axes: Axes, classes: int, shown: int) -> None:
    """Write how many classes are left out into the empty row of `class_rows`."""
    if shown < classes:
        axes.text(
            0.02,
            CLASSES_AT_AN_END,
            f"{classes - shown} of {classes} classes, in between, are left out",
            transform=axes.get_yaxis_transform(),
            va="center",
            style="italic",
            in_layout=False,
        )
