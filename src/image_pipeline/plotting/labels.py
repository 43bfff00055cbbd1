"""Class names in pictures: short enough, legible, and told apart."""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from unicodedata import east_asian_width

from matplotlib.font_manager import findfont, get_font

from image_pipeline.plotting.figures import fonts

MAX_LABEL_LENGTH = 20  # characters of a class name that are shown
INCHES_PER_LETTER = 0.09  # on average, of a label


def plain(text: str) -> str:
    """Return `text` so that matplotlib shows it as it is: no maths is set between dollar signs.

    What the `fonts` have not, such as Thai, is shown as code points, [0E01]: another font would not
    be on every machine, and the picture not the same.
    """
    return _readable(text).replace("$", r"\$")


def _readable(text: str) -> str:
    return "".join(part if _has_glyph(part) else f"[{ord(part):04X}]" for part in text)


@cache
def _has_glyph(character: str) -> bool:
    code = ord(character)
    return character == "\n" or any(get_font(findfont(f)).get_char_index(code) for f in fonts())


def letters(text: str) -> int:
    """Return how many letters wide `text` is: a Chinese, Japanese or Korean one counts as two."""
    return len(text) + sum(east_asian_width(character) in "FW" for character in text)


def short_names(names: Sequence[str]) -> list[str]:
    """Return what stands for each class in a picture: its name, shortened where it is very long.

    Names that would look the same then have the class's number behind them.
    """
    short = [
        f"{text[: MAX_LABEL_LENGTH - 1].rstrip()}…" if len(text) > MAX_LABEL_LENGTH else text
        for text in map(_readable, names)
    ]
    often = Counter(short)
    return [f"{text} ({number})" if often[text] > 1 else text for number, text in enumerate(short)]


def class_labels(names: Sequence[str]) -> list[str]:
    """Return the `short_names` as `plain` text."""
    return [plain(name) for name in short_names(names)]


def label_inches(labels: Sequence[str]) -> float:
    """Return the room that labels take beyond a few letters, which every figure has room for."""
    return INCHES_PER_LETTER * max(0, max(map(letters, labels)) - 4)
