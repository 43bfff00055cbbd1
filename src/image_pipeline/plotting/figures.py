"""What all plots share: a style that is legible at README size, and reproducible bytes."""

import io
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontEntry, fontManager

from image_pipeline.common.files import write_bytes

# Okabe and Ito's palette for colour-blind readers (jfly.uni-koeln.de/color).
BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#666666"

RC_PARAMS: dict[Any, object] = {
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


@cache
def fonts() -> list[str]:
    """Return the names of the fonts, in order of preference.

    DejaVu Sans ships with matplotlib, Noto Sans CJK with a package of its own. The latter is
    registered under a name of ours, so that an installed edition of it is never used instead.
    """
    cjk = files("noto_cjk_sans_jp_regular") / "NotoSansCJKjp-Regular.otf"
    fontManager.ttflist.append(FontEntry(str(cjk), name="CJK of image_pipeline", size="scalable"))
    return ["DejaVu Sans", "CJK of image_pipeline"]


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, size in inches, unaffected by the user's matplotlib settings."""
    mpl.rcdefaults()
    mpl.rcParams.update(RC_PARAMS | {"font.family": fonts()})
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(path: Path, figure: Figure, dpi: int = 100) -> None:
    """Write the figure as a PNG without software and date metadata, atomically."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    write_bytes(path, buffer.getvalue())
