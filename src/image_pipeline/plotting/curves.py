"""Loss and accuracy over the epochs, training and validation together: a picture, a table."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from matplotlib.ticker import MaxNLocator, PercentFormatter

from image_pipeline.common.files import write_bytes
from image_pipeline.plotting.figures import BLUE, ORANGE, new_figure, save_figure
from image_pipeline.training.history import EpochRecord, write_history

MIN_PAUSE = 1.0  # seconds between two redraws
MAX_TIME_SHARE = 0.05  # of the time may go into redraws


def draw_curves(path: Path, *histories: Sequence[EpochRecord]) -> None:
    """Draw the curves of a run to a PNG; of several seeds' runs their mean, and the band around it.

    All runs must have the same epochs.
    """
    figure = new_figure(10, 4)
    if len(histories) > 1:
        figure.suptitle(f"{len(histories)} seeds: mean, and the band from the least to the most")
    loss, accuracy = figure.subplots(1, 2)
    epochs = [record.epoch for record in histories[0]]
    marker = "o" if len(epochs) == 1 else None
    for axes, kind in ((loss, "loss"), (accuracy, "accuracy")):
        for name, colour, dashes in (("train", ORANGE, "--"), ("validation", BLUE, "-")):
            runs = [[getattr(record, f"{name}_{kind}") for record in run] for run in histories]
            if len(runs) > 1:
                axes.fill_between(
                    epochs, np.min(runs, 0), np.max(runs, 0), color=colour, alpha=0.25
                )
            label = "training" if name == "train" else name
            mean = np.mean(runs, 0)
            axes.plot(epochs, mean, dashes, color=colour, label=label, marker=marker)
        axes.set(title=kind.capitalize(), xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
    loss.set(ylabel="cross-entropy (nats)")
    accuracy.set(ylabel="share of images")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0))
    save_figure(path, figure)


class LiveCurves:
    """Writes the curves anew while training goes on, at most once a second and seldom enough.

    As a context manager it brings picture and table of before back where training fails.
    """

    def __init__(self, picture: Path, table: Path) -> None:
        self._picture, self._table = picture, table
        self._next = 0.0

    def __enter__(self) -> Self:
        paths = (self._picture, self._table)
        self._before = {path: path.read_bytes() if path.is_file() else None for path in paths}
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        for path, content in self._before.items() if failure else ():
            if content is None:
                path.unlink(missing_ok=True)
            else:
                write_bytes(path, content)

    def update(self, history: Sequence[EpochRecord]) -> None:
        """Write them, unless the last time was a moment ago."""
        start = time.monotonic()
        if start < self._next:
            return
        draw_curves(self._picture, history)
        write_history(self._table, history)
        end = time.monotonic()
        self._next = end + max(MIN_PAUSE, (end - start) / MAX_TIME_SHARE)
