"""The curves of several runs as one: their mean, and the band in which they lie."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator, PercentFormatter

from image_pipeline.experiments.repeats import Repeat, read_history
from image_pipeline.training.figures import BLUE, ORANGE, new_figure, save_figure


def draw_bands(path: Path, repeats: Sequence[Repeat]) -> None:
    """Draw loss and accuracy over the epochs: the mean of all runs, from the least to the most.

    Raises:
        DataError: a run has no curves.
    """
    histories = [read_history(repeat.revision) for repeat in repeats]
    figure = new_figure(10, 4)
    figure.suptitle(f"{len(repeats)} seeds: mean, and the band from the least to the most")
    for axes, kind, said in zip(
        figure.subplots(1, 2),
        ("loss", "accuracy"),
        ("cross-entropy (nats)", "share of images"),
        strict=True,
    ):
        for split, colour, dashes in (("train", ORANGE, "--"), ("validation", BLUE, "-")):
            curves = np.array([history[f"{split}_{kind}"] for history in histories])
            epochs = histories[0]["epoch"]
            axes.fill_between(epochs, curves.min(0), curves.max(0), color=colour, alpha=0.25)
            label = "training" if split == "train" else split
            axes.plot(epochs, curves.mean(0), dashes, color=colour, label=label)
        axes.set(title=kind.capitalize(), xlabel="epoch", ylabel=said)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
        if kind == "accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    save_figure(path, figure)
