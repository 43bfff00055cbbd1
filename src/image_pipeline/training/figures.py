"""What all pictures share: a look that is legible at README size, and bytes that do not vary.

Beside the curves, which training draws as it goes; the other pictures are in `plotting`.
"""

import io
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from image_pipeline.common.files import write_bytes

# Okabe and Ito's colours, told apart by colour-blind readers (jfly.uni-koeln.de/color).
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#666666"

FONT = "DejaVu Sans"  # ships with matplotlib
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


def save_figure(path: Path, figure: Figure, dpi: int = 100) -> None:
    """Write the figure as a PNG that names no software and no date, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    write_bytes(path, buffer.getvalue())
