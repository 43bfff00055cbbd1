"""Loss and accuracy over the epochs, training and validation together."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator, PercentFormatter

from image_pipeline.plotting.figures import BLUE, ORANGE, new_figure, save_figure

LABELS = {
    ("train", "loss"): "training (train.loss)",
    ("validation", "loss"): "validation (cross-entropy)",
    ("train", "accuracy"): "training",
    ("validation", "accuracy"): "validation",
}


def draw_curves(path: Path, *histories: pd.DataFrame, dpi: int = 100) -> None:
    """Draw the curves of a run; of several seeds' runs their mean, and a band from min to max.

    Args:
        path: of the PNG.
        histories: of each run, as plots/history.csv has it; all of the same epochs.
        dpi: pixels per inch.
    """
    figure = new_figure(10, 4)
    if len(histories) > 1:
        figure.suptitle(f"{len(histories)} seeds: mean, and a band from the lowest to the highest")
    loss, accuracy = figure.subplots(1, 2)
    epochs = histories[0]["epoch"]
    marker = "o" if len(epochs) == 1 else None
    for axes, kind in ((loss, "loss"), (accuracy, "accuracy")):
        for name, colour, dashes in (("train", ORANGE, "--"), ("validation", BLUE, "-")):
            runs = [run[f"{name}_{kind}"] for run in histories]
            if len(runs) > 1:
                axes.fill_between(
                    epochs, np.min(runs, 0), np.max(runs, 0), color=colour, alpha=0.25
                )
            mean, label = np.mean(runs, 0), LABELS[name, kind]
            axes.plot(epochs, mean, dashes, color=colour, label=label, marker=marker)
        axes.set(title=kind.capitalize(), xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
    loss.set(ylabel="loss (nats)")
    accuracy.set(ylabel="share of images")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0))
    save_figure(path, figure, dpi)
