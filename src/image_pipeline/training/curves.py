"""Loss and accuracy over the epochs, training and validation together: a picture, a table."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from matplotlib.ticker import MaxNLocator, PercentFormatter

from image_pipeline.common.files import write_bytes
from image_pipeline.training.figures import BLUE, ORANGE, new_figure, save_figure
from image_pipeline.training.history import EpochRecord, write_history

SHORTEST_PAUSE = 1.0  # seconds between two redraws
LARGEST_SHARE = 0.05  # of the time may go into redraws


def draw_curves(path: Path, history: Sequence[EpochRecord]) -> None:
    """Draw the curves of `history` to a PNG."""
    figure = new_figure(10, 4)
    loss, accuracy = figure.subplots(1, 2)
    epochs = [record.epoch for record in history]
    marker = "o" if len(epochs) == 1 else None
    for name, colour, dashes in (("train", ORANGE, "--"), ("validation", BLUE, "-")):
        losses = [getattr(record, f"{name}_loss") for record in history]
        accuracies = [getattr(record, f"{name}_accuracy") for record in history]
        label = "training" if name == "train" else name
        loss.plot(epochs, losses, dashes, color=colour, label=label, marker=marker)
        accuracy.plot(epochs, accuracies, dashes, color=colour, label=label, marker=marker)
    loss.set(title="Loss", xlabel="epoch", ylabel="cross-entropy (nats)")
    accuracy.set(title="Accuracy", xlabel="epoch", ylabel="share of images")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0))
    for axes in (loss, accuracy):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
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
        self._next = end + max(SHORTEST_PAUSE, (end - start) / LARGEST_SHARE)
