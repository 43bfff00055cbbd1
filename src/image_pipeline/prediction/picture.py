"""Images beside what the network saw of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from image_pipeline.plotting.figures import new_figure, save_figure
from image_pipeline.plotting.labels import plain, short_names
from image_pipeline.prediction.streaming import Prediction

COLUMNS = 4  # of pairs
INCHES = 1.5  # of an image
MAX_NAME_LENGTH = 24  # letters
DPI = 100


@dataclass(frozen=True)
class Seen:
    """A prediction with its images.

    Attributes:
        prediction: what the model says.
        given: the image, uint8 `[H, W]` or `[H, W, 3]`.
        pixels: what the network saw of it, uint8 `[C, H, W]`.
    """

    prediction: Prediction
    given: np.ndarray
    pixels: np.ndarray


def draw_seen(path: Path, seen: Sequence[Seen], class_names: Sequence[str]) -> None:
    """Draw each image beside what the network saw, with its class and probability."""
    short = dict(zip(class_names, short_names(class_names), strict=True))
    columns = max(1, min(COLUMNS, len(seen)))
    rows = max(1, -(-len(seen) // columns))
    figure = new_figure(max(2 * columns * INCHES, 4), rows * (INCHES + 0.5) + 0.4)
    figure.suptitle("Each image, and what the network saw of it")
    cells = list(figure.subplots(rows, 2 * columns, squeeze=False).flat)
    for axes in cells:
        axes.axis("off")
    for one, left, right in zip(seen, cells[::2], cells[1::2], strict=False):
        told = one.prediction
        _show(left, one.given)
        _show(right, one.pixels[0] if len(one.pixels) == 1 else one.pixels.transpose(1, 2, 0))
        left.set_title(plain(_shortened(told.image.source.name)), fontsize=9)
        doubt = ", doubtful" if told.doubtful else ""
        said = f"{short[told.class_name]} at {told.probability:.1%}{doubt}"
        right.set_title(plain(said), fontsize=9)
    save_figure(path, figure, DPI)


def _shortened(name: str) -> str:
    base = Path(name).name
    printable = "".join(letter if letter.isprintable() else "?" for letter in base)
    return (
        printable if len(printable) <= MAX_NAME_LENGTH else f"…{printable[1 - MAX_NAME_LENGTH :]}"
    )


def _show(axes: Axes, pixels: np.ndarray) -> None:
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
