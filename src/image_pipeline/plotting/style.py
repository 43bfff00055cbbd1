"""What all pictures share: a look that is legible at README size, and bytes that do not vary."""

import io
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

from image_pipeline.files import write_bytes

# Okabe and Ito's colours, told apart by colour-blind readers (jfly.uni-koeln.de/color).
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#666666"

FONT = "DejaVu Sans"  # ships with matplotlib
LONGEST_LABEL = 20  # characters of a class name that are shown
INCHES_PER_LETTER = 0.09  # on average, of a label
RC_PARAMS: dict[Any, object] = {
    "font.family": FONT,
    "font.size": 11,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 12,
    "grid.color": "#DDDDDD",
    "legend.frameon": False,
    "lines.linewidth": 2,
}


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure of that many inches, free of any user's matplotlib settings."""
    mpl.rcdefaults()
    mpl.rcParams.update(RC_PARAMS)
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plain(text: str) -> str:
    """Return `text` so that matplotlib shows it as it is: no maths is set between dollar signs.

    The font has Latin, Greek, Cyrillic, Arabic and Hebrew letters and many symbols. What it has
    not, such as Chinese, is shown as code points, [732B]: another font would not be on every
    machine, and the picture not the same.
    """
    return _readable(text).replace("$", r"\$")


def _readable(text: str) -> str:
    return "".join(part if _has_glyph(part) else f"[{ord(part):04X}]" for part in text)


@cache
def _has_glyph(character: str) -> bool:
    return character == "\n" or get_font(findfont(FONT)).get_char_index(ord(character)) != 0


def short_names(names: Sequence[str]) -> list[str]:
    """Return what stands for each class in a picture: its name, shortened where it is very long.

    Names that would look the same then have the class's number behind them.
    """
    short = [
        f"{text[: LONGEST_LABEL - 1].rstrip()}…" if len(text) > LONGEST_LABEL else text
        for text in map(_readable, names)
    ]
    often = Counter(short)
    return [f"{text} ({number})" if often[text] > 1 else text for number, text in enumerate(short)]


def class_labels(names: Sequence[str]) -> list[str]:
    """Return the `short_names` as `plain` text."""
    return [plain(name) for name in short_names(names)]


def label_inches(labels: Sequence[str]) -> float:
    """Return the room that labels take beyond a few letters, which every figure has room for."""
    return INCHES_PER_LETTER * max(0, max(map(len, labels)) - 4)


def save_figure(path: Path, figure: Figure, dpi: int = 100) -> None:
    """Write the figure as a PNG that names no software and no date, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    write_bytes(path, buffer.getvalue())
