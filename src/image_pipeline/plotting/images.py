"""Pictures made of images: samples, mistakes, weights."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from image_pipeline.plotting.labels import class_labels, plain
from image_pipeline.training.figures import new_figure, save_figure

COLUMNS = 8
INCHES = 1.25
CAPTION_INCHES_PER_LETTER = 0.085
# Up to so many classes: in how many columns, and with how many images each.
CLASS_GRIDS = ((4, (1, 12)), (30, (2, 8)), (100, (4, 5)))
MOST_CLASSES = CLASS_GRIDS[-1][0]
CLASSES_WIDTH = 10  # inches


def draw_images(
    path: Path, images: np.ndarray, captions: Sequence[str], title: str, dpi: int
) -> None:
    """Draw images `[N, C, H, W]` with values 0 to 255 (1 or 3 channels), each under its caption."""
    lines = [line for caption in captions for line in caption.split("\n")]
    height = max((caption.count("\n") + 1 for caption in captions), default=0)
    width = max(INCHES, CAPTION_INCHES_PER_LETTER * max(map(len, lines), default=0))
    columns = max(1, int(COLUMNS * INCHES / width))
    cells = _Grid(len(images), title, columns, width, extra=INCHES - width + 0.2 * height)
    for axes, image, caption in zip(cells.axes, images, captions, strict=False):
        _show_image(axes, image)
        axes.set_title(plain(caption), fontsize=9)
    save_figure(path, cells.figure, dpi)


def class_grid(classes: int) -> tuple[int, int]:
    """Return in how many columns that many classes are drawn, and with how many images each."""
    return next(layout for most, layout in CLASS_GRIDS if classes <= most)


def draw_classes(
    path: Path, samples: Sequence[np.ndarray], names: Sequence[str], title: str, dpi: int
) -> None:
    """Draw some images of each class side by side under the class's name.

    Args:
        path: of the PNG.
        samples: of each class uint8 `[n, C, H, W]` (1 or 3 channels); n may differ, and be 0.
        names: one per class.
        title: above all.
        dpi: pixels per inch.
    """
    columns, most = class_grid(len(samples))
    channels, height, width = samples[0].shape[1:]
    gap = max(1, width // 14)
    paper = 0 if channels == 1 else 255  # what is drawn white
    strips = np.full(
        (len(samples), channels, height, most * (width + gap)), paper, samples[0].dtype
    )
    for strip, images in zip(strips, samples, strict=True):
        for number, image in enumerate(images):
            start = number * (width + gap)
            strip[:, :, start : start + width] = image
    rows = math.ceil(len(samples) / columns)
    tall = CLASSES_WIDTH / columns * height / strips.shape[3]
    figure = new_figure(CLASSES_WIDTH, rows * (tall + 0.3) + 0.6)
    figure.suptitle(title)
    cells = list(figure.subplots(rows, columns, squeeze=False).T.flat)  # down the columns
    for axes in cells:
        axes.axis("off")
    for axes, strip, label in zip(cells, strips, class_labels(names), strict=False):
        _show_image(axes, strip)
        axes.set_title(label, fontsize=9, loc="left")
        axes.set_anchor("W")
    save_figure(path, figure, dpi)


def draw_first_layer(path: Path, weights: np.ndarray | None, dpi: int) -> None:
    """Draw each unit's weights `[units, C, H, W]` as an image, red above 0 and blue below.

    Units are those of the first dense layer, or the filters of the first convolution. Several
    channels are drawn as their mean. None says that no layer looks at the pixels so.
    """
    if weights is None:
        figure = new_figure(5, 1)
        figure.suptitle("First layer: nothing to show, it is neither dense\nnor a convolution")
        save_figure(path, figure, dpi)
        return
    units = weights.mean(axis=1)
    cells = _Grid(
        len(units), f"First layer: the weights of its {len(units)} units", columns=20, inches=0.6
    )
    top = float(np.quantile(np.abs(units), 0.995)) or 1.0
    for axes, unit in zip(cells.axes, units, strict=False):
        _show(axes, unit, cmap="RdBu_r", bottom=-top, top=top)
    save_figure(path, cells.figure, dpi)


class _Grid:
    """A figure with a cell for each of `count` images."""

    def __init__(
        self,
        count: int,
        title: str,
        columns: int = COLUMNS,
        inches: float = INCHES,
        extra: float = 0,
    ) -> None:
        columns = max(1, min(columns, count))
        rows = max(1, math.ceil(count / columns))
        self.figure = new_figure(max(columns * inches, 5), rows * (inches + extra) + 0.5)
        self.figure.suptitle(title)
        self.axes: list[Axes] = list(self.figure.subplots(rows, columns, squeeze=False).flat)
        for axes in self.axes:
            axes.axis("off")


def _show_image(axes: Axes, image: np.ndarray) -> None:
    pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    _show(axes, pixels[..., 0] if pixels.shape[2] == 1 else pixels, cmap="gray_r", top=255)


def _show(axes: Axes, pixels: np.ndarray, cmap: str, top: float, bottom: float = 0) -> None:
    axes.imshow(pixels, cmap=cmap, vmin=bottom, vmax=top, interpolation="nearest")
