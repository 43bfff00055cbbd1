"""Plots of images: samples, errors, weights."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from image_pipeline.plotting.figures import new_figure, save_figure
from image_pipeline.plotting.labels import class_labels, letters, plain

COLUMNS = 8
INCHES = 1.25  # of an image of up to 125 pixels on a side
MAX_INCHES = 2.25  # of a larger one
PIXELS_PER_INCH = 100
CAPTION_INCHES_PER_LETTER = 0.085
# (largest number of classes, (columns, images per class))
CLASS_GRIDS = ((4, (1, 12)), (30, (2, 8)), (100, (4, 5)))
MAX_CLASSES = CLASS_GRIDS[-1][0]
CLASSES_WIDTH = 10  # inches
RED, MAX_OPACITY = (255, 0, 0), 0.7  # of a saliency map over an image
UNIT_COLUMNS, UNIT_INCHES = 20, 0.6
MAX_UNITS = 24 * UNIT_COLUMNS  # one or two screens


def draw_images(
    path: Path, images: np.ndarray, captions: Sequence[str], title: str, dpi: int
) -> None:
    """Draw images `[N, C, H, W]` with values 0 to 255 (1 or 3 channels) and their captions.

    Large ones are drawn larger, and fewer side by side.
    """
    lines = [line for caption in captions for line in caption.split("\n")]
    height = max((caption.count("\n") + 1 for caption in captions), default=0)
    inches = _inches(images.shape[2])
    width = inches * max(1, images.shape[3] // images.shape[2])
    width = max(width, CAPTION_INCHES_PER_LETTER * max(map(letters, lines), default=0))
    columns = max(1, min(int(COLUMNS * INCHES / width), len(images)))
    rows = max(1, math.ceil(len(images) / columns))
    figure = new_figure(max(columns * width, 5), rows * (inches + 0.2 * height) + 0.5)
    figure.suptitle(title)
    cells = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in cells:
        axes.axis("off")
    for axes, image, caption in zip(cells, images, captions, strict=False):
        _show_image(axes, image)
        axes.set_title(plain(caption), fontsize=9)
    save_figure(path, figure, dpi)


def draw_saliency(
    path: Path,
    images: np.ndarray,
    maps: np.ndarray,
    captions: Sequence[str],
    title: str,
    dpi: int,
) -> None:
    """Draw each image beside itself in grey, with red where its map is high.

    Args:
        path: of the PNG.
        images: uint8 `[N, C, H, W]` (1 or 3 channels).
        maps: float32 `[N, H, W]` from 0 to 1.
        captions: one per image.
        title: of the figure.
        dpi: pixels per inch.
    """
    pixels = 255 - np.repeat(images, 3, axis=1) if images.shape[1] == 1 else images
    grey = pixels.mean(axis=1, keepdims=True, dtype=np.float32)
    opacity = MAX_OPACITY * maps[:, None]
    overlaid = (1 - opacity) * grey + opacity * np.array(RED, np.float32)[:, None, None]
    gap = np.full((*pixels.shape[:3], max(1, pixels.shape[3] // 14)), 255)
    draw_images(path, np.concatenate([pixels, gap, overlaid], axis=3), captions, title, dpi)


def class_grid(classes: int, side: int) -> tuple[int, int]:
    """Return the number of columns and of images per class for classes of images of a size."""
    columns, per_class = next(layout for limit, layout in CLASS_GRIDS if classes <= limit)
    return columns, int(per_class * INCHES / _inches(side))


def _inches(side: int) -> float:
    """Return the height at which images of a height in pixels are drawn."""
    return min(MAX_INCHES, max(INCHES, side / PIXELS_PER_INCH))


def draw_classes(
    path: Path, samples: Sequence[np.ndarray], names: Sequence[str], title: str, dpi: int
) -> None:
    """Draw some images of each class side by side, under the class's name.

    Args:
        path: of the PNG.
        samples: images of each class, uint8 `[n, C, H, W]` (1 or 3 channels); n may vary and be 0.
        names: one per class.
        title: of the figure.
        dpi: pixels per inch.
    """
    channels, height, width = samples[0].shape[1:]
    columns, per_class = class_grid(len(samples), height)
    gap = max(1, width // 14)
    white = 0 if channels == 1 else 255  # single-channel images are drawn inverted
    strips = np.full(
        (len(samples), channels, height, per_class * (width + gap)), white, samples[0].dtype
    )
    for strip, images in zip(strips, samples, strict=True):
        for number, image in enumerate(images):
            start = number * (width + gap)
            strip[:, :, start : start + width] = image
    rows = math.ceil(len(samples) / columns)
    inches = CLASSES_WIDTH / columns * height / strips.shape[3]
    figure = new_figure(CLASSES_WIDTH, rows * (inches + 0.3) + 0.6)
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
    """Draw each unit's weights `[units, C, H, W]` as an image.

    Units are those of a dense layer or the filters of a convolution, up to MAX_UNITS. Those of
    images in colour are in colour, each scaled to its largest weight, with 0 in grey; of others,
    channels are averaged, and red is above 0 and blue below. None, if the first layer is neither,
    draws a note.
    """
    if weights is None:
        figure = new_figure(5, 1)
        figure.suptitle("First layer: nothing to show, it is neither dense\nnor a convolution")
        save_figure(path, figure, dpi)
        return
    step = max(1, int(weights.shape[3] / (UNIT_INCHES * dpi)))  # no more weights than pixels
    units = weights[:MAX_UNITS, :, ::step, ::step].transpose(0, 2, 3, 1)
    in_colour = units.shape[3] == 3
    if in_colour:
        largest = np.abs(units).max(axis=(1, 2, 3), keepdims=True)
        units = 0.5 + 0.5 * units / np.where(largest > 0, largest, 1)
    else:
        units = units.mean(axis=3, keepdims=True)
    count, height, width, values = units.shape
    columns = min(UNIT_COLUMNS, count)
    rows = math.ceil(count / columns)
    # One image: an axes per unit would take most of a minute. The gaps are white: 1, or NaN.
    border = max(1, width // 28)
    cell_h, cell_w = height + 2 * border, width + 2 * border
    white = 1 if in_colour else np.nan
    cells = np.full((rows * columns, cell_h, cell_w, values), white, np.float32)
    cells[:count, border:-border, border:-border] = units
    mosaic = cells.reshape(rows, columns, cell_h, cell_w, values).swapaxes(1, 2)
    figure = new_figure(max(columns * UNIT_INCHES, 5), rows * UNIT_INCHES * cell_h / cell_w + 0.5)
    prefix = "" if count == len(weights) else f"the first {count} of "
    figure.suptitle(f"First layer: the weights of {prefix}its {len(weights):,} units")
    axes = figure.subplots()
    axes.axis("off")
    pixels = mosaic.reshape(rows * cell_h, columns * cell_w, values)
    if in_colour:
        axes.imshow(pixels, interpolation="nearest")
    else:
        limit = float(np.quantile(np.abs(units), 0.995)) or 1.0
        axes.imshow(pixels[..., 0], cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    save_figure(path, figure, dpi)


def _show_image(axes: Axes, image: np.ndarray) -> None:
    pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    pixels = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    axes.imshow(pixels, cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
