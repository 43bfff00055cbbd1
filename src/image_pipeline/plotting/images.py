"""Pictures made of images: samples, mistakes, weights."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from image_pipeline.plotting.figures import new_figure, save_figure
from image_pipeline.plotting.labels import class_labels, letters, plain

COLUMNS = 8
INCHES = 1.25
CAPTION_INCHES_PER_LETTER = 0.085
# Up to so many classes: in how many columns, and with how many images each.
CLASS_GRIDS = ((4, (1, 12)), (30, (2, 8)), (100, (4, 5)))
MAX_CLASSES = CLASS_GRIDS[-1][0]
CLASSES_WIDTH = 10  # inches
UNIT_COLUMNS, UNIT_INCHES = 20, 0.6
MAX_UNITS = 24 * UNIT_COLUMNS  # what a screen shows at a time, or two


def draw_images(
    path: Path, images: np.ndarray, captions: Sequence[str], title: str, dpi: int
) -> None:
    """Draw images `[N, C, H, W]` with values 0 to 255 (1 or 3 channels), each under its caption."""
    lines = [line for caption in captions for line in caption.split("\n")]
    height = max((caption.count("\n") + 1 for caption in captions), default=0)
    width = max(INCHES, CAPTION_INCHES_PER_LETTER * max(map(letters, lines), default=0))
    columns = max(1, min(int(COLUMNS * INCHES / width), len(images)))
    rows = max(1, math.ceil(len(images) / columns))
    figure = new_figure(max(columns * width, 5), rows * (INCHES + 0.2 * height) + 0.5)
    figure.suptitle(title)
    cells = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in cells:
        axes.axis("off")
    for axes, image, caption in zip(cells, images, captions, strict=False):
        _show_image(axes, image)
        axes.set_title(plain(caption), fontsize=9)
    save_figure(path, figure, dpi)


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

    Units are those of the first dense layer, or the filters of the first convolution, up to
    MAX_UNITS. Several channels are drawn as their mean. None says that no layer looks at the
    pixels so.
    """
    if weights is None:
        figure = new_figure(5, 1)
        figure.suptitle("First layer: nothing to show, it is neither dense\nnor a convolution")
        save_figure(path, figure, dpi)
        return
    step = max(1, int(weights.shape[3] / (UNIT_INCHES * dpi)))  # no more than there are pixels for
    units = weights[:MAX_UNITS, :, ::step, ::step].mean(axis=1)
    count, height, width = units.shape
    columns = min(UNIT_COLUMNS, count)
    rows = math.ceil(count / columns)
    # All in one image, as axes for each unit would take most of a minute. NaN leaves gaps white.
    edge = max(1, width // 28)
    high, wide = height + 2 * edge, width + 2 * edge
    cells = np.full((rows * columns, high, wide), np.nan, np.float32)
    cells[:count, edge:-edge, edge:-edge] = units
    mosaic = cells.reshape(rows, columns, high, wide).swapaxes(1, 2).reshape(rows * high, -1)
    figure = new_figure(max(columns * UNIT_INCHES, 5), rows * UNIT_INCHES * high / wide + 0.5)
    which = "" if count == len(weights) else f"the first {count} of "
    figure.suptitle(f"First layer: the weights of {which}its {len(weights):,} units")
    axes = figure.subplots()
    axes.axis("off")
    top = float(np.quantile(np.abs(units), 0.995)) or 1.0
    _show(axes, mosaic, cmap="RdBu_r", bottom=-top, top=top)
    save_figure(path, figure, dpi)


def _show_image(axes: Axes, image: np.ndarray) -> None:
    pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    _show(axes, pixels[..., 0] if pixels.shape[2] == 1 else pixels, cmap="gray_r", top=255)


def _show(axes: Axes, pixels: np.ndarray, cmap: str, top: float, bottom: float = 0) -> None:
    axes.imshow(pixels, cmap=cmap, vmin=bottom, vmax=top, interpolation="nearest")
