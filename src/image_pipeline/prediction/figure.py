"""The figure of `predict --show`: images beside the network's inputs, with their predictions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from image_pipeline.plotting.figures import new_figure, save_figure
from image_pipeline.plotting.labels import plain, short_names
from image_pipeline.prediction.streaming import Prediction

COLUMNS = 4  # of pairs
INCHES = 1.5  # of an image
MAX_NAME_LENGTH = 24  # characters
DPI = 100


def draw_examples(
    path: Path,
    examples: Sequence[tuple[Prediction, np.ndarray, np.ndarray]],
    class_names: Sequence[str],
) -> None:
    """Draw each image beside the network's input, titled with its class and probability.

    Args:
        path: of the PNG.
        examples: predictions, each with the image file's pixels, uint8 `[H, W]` or `[H, W, 3]`, and
            the network's input, uint8 `[C, H, W]`.
        class_names: of the model.
    """
    short = dict(zip(class_names, short_names(class_names), strict=True))
    columns = max(1, min(COLUMNS, len(examples)))
    rows = max(1, -(-len(examples) // columns))
    figure = new_figure(max(2 * columns * INCHES, 4), rows * (INCHES + 0.5) + 0.4)
    figure.suptitle("Each image and the network's input")
    cells = list(figure.subplots(rows, 2 * columns, squeeze=False).flat)
    for axes in cells:
        axes.axis("off")
    for example, left, right in zip(examples, cells[::2], cells[1::2], strict=False):
        prediction, original, pixels = example
        _show(left, original)
        _show(right, pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
        left.set_title(plain(_shorten(prediction.image.input.name)), fontsize=9)
        mark = ", doubtful" if prediction.doubtful else ""
        title = f"{short[prediction.class_name]} at {prediction.probability:.1%}{mark}"
        right.set_title(plain(title), fontsize=9)
    save_figure(path, figure, DPI)


def _shorten(name: str) -> str:
    base = Path(name).name
    printable = "".join(letter if letter.isprintable() else "?" for letter in base)
    return (
        printable if len(printable) <= MAX_NAME_LENGTH else f"…{printable[1 - MAX_NAME_LENGTH :]}"
    )


def _show(axes: Axes, pixels: np.ndarray) -> None:
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
