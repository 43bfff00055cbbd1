"""What all pictures share: a look that is legible at README size, and bytes that do not vary.

Beside the curves, which training draws as it goes; the other pictures are in `plotting`.
"""

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

# Okabe and Ito's colours, told apart by colour-blind readers (jfly.uni-koeln.de/color).
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#666666"

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
    """Return the names of the fonts that letters are looked for in, one after the other.

    DejaVu Sans ships with matplotlib, Noto Sans CJK with a package of its own. That one is known by
    a name of ours, so that no other edition, which a machine may have, is taken for it.
    """
    cjk = files("noto_cjk_sans_jp_regular") / "NotoSansCJKjp-Regular.otf"
    fontManager.ttflist.append(FontEntry(str(cjk), name="CJK of image_pipeline", size="scalable"))
    return ["DejaVu Sans", "CJK of image_pipeline"]


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure of that many inches, free of any user's matplotlib settings."""
    mpl.rcdefaults()
    mpl.rcParams.update(RC_PARAMS | {"font.family": fonts()})
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(path: Path, figure: Figure, dpi: int = 100) -> None:
    """Write the figure as a PNG that names no software and no date, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    write_bytes(path, buffer.getvalue())
