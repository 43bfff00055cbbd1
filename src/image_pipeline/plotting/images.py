"""Pictures made of images: samples, mistakes, weights."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from image_pipeline.plotting.style import new_figure, plain, save_figure

COLUMNS = 8
INCHES = 1.25


def draw_images(
    path: Path, images: np.ndarray, captions: Sequence[str], title: str, dpi: int
) -> None:
    """Draw images `[N, C, H, W]` with values 0 to 255 (1 or 3 channels), each under its caption."""
    lines = max((caption.count("\n") + 1 for caption in captions), default=0)
    cells = _Grid(len(images), title, extra=0.2 * lines)
    for axes, image, caption in zip(cells.axes, images, captions, strict=False):
        pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8).transpose(1, 2, 0)
        _show(axes, pixels[..., 0] if pixels.shape[2] == 1 else pixels, cmap="gray_r", top=255)
        axes.set_title(plain(caption), fontsize=9)
    save_figure(path, cells.figure, dpi)


def draw_first_layer(
    path: Path, weights: np.ndarray, shape: tuple[int, int, int], dpi: int
) -> None:
    """Draw each hidden unit's weights `[units, C*H*W]` as an image, red above 0 and blue below.

    Several channels are drawn as their mean.
    """
    units = weights.reshape(len(weights), *shape).mean(axis=1)
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


def _show(axes: Axes, pixels: np.ndarray, cmap: str, top: float, bottom: float = 0) -> None:
    axes.imshow(pixels, cmap=cmap, vmin=bottom, vmax=top, interpolation="nearest")
