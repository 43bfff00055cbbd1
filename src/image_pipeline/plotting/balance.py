"""The number of images of each class in each split."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator

from image_pipeline.plotting.figures import BLUE, ORANGE, new_figure, save_figure
from image_pipeline.plotting.labels import class_labels, class_rows, label_inches, note_left_out


def draw_class_balance(
    path: Path,
    images: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    few: int,
    leak: str,
    dpi: int,
) -> None:
    """Draw the number of images of each class, with one panel and scale per split.

    Of more than MAX_CLASSES, the smallest and the largest are shown.

    Args:
        path: of the PNG.
        images: number of images of each class, integers `[classes]`, by split.
        class_names: one per class.
        few: bars below this number of images are orange.
        leak: a warning for the title, or an empty string.
        dpi: pixels per inch.
    """
    shown, rows = class_rows(np.sum(list(images.values()), axis=0))
    names = class_labels(class_names)
    labels = [names[label] for label in shown]
    height = min(max(2.5, 0.25 * len(labels) + 1.3), 40.0) + (0.3 if leak else 0)
    figure = new_figure(10 + label_inches(labels), height)
    panels = figure.subplots(1, len(images), sharey=True, squeeze=False)[0]
    for axes, (split, counts) in zip(panels, images.items(), strict=True):
        colours = [ORANGE if count < few else BLUE for count in counts[shown]]
        axes.grid(visible=False, axis="y")
        bars = axes.barh(rows, counts[shown], color=colours)
        axes.bar_label(bars, fmt="{:.0f}", padding=4, fontsize=8)
        axes.set_xlim(0, 1.2 * max(1, counts.max()))
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set(title=f"{split}: {counts.sum()} images", xlabel="images")
    panels[0].set_yticks(rows, labels)
    panels[0].set_ylabel("class")
    panels[0].set_ylim(rows[-1] + 0.5, -0.5)
    note_left_out(panels[0], len(names), len(shown))
    title = "Images of each class"
    if any((counts < few).any() for counts in images.values()):
        title += f" (orange: fewer than {few})"
    if leak:
        figure.suptitle(f"{title}\nWARNING: {leak}", color="#D00000", weight="bold")
    else:
        figure.suptitle(title)
    save_figure(path, figure, dpi)
