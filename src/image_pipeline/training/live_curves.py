"""The curves while training goes on; the plot stage draws the final ones."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import pandas as pd

from image_pipeline.common.files import write_bytes
from image_pipeline.plotting.curves import draw_curves
from image_pipeline.serialization import write_csv
from image_pipeline.training.history import EpochRecord

MIN_PAUSE = 1.0  # seconds between two redraws
MAX_TIME_SHARE = 0.05  # that may go into redraws


class LiveCurves:
    """Rewrites picture and table after an epoch, at most once a second.

    As a context manager it draws the last epoch at the end, or restores the previous picture and
    table if the block fails.
    """

    def __init__(self, picture: Path, table: Path) -> None:
        self._picture, self._table = picture, table
        self._next = 0.0
        self._skipped: Sequence[EpochRecord] = ()

    def __enter__(self) -> Self:
        paths = (self._picture, self._table)
        self._before = {path: path.read_bytes() if path.is_file() else None for path in paths}
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        if self._skipped and not failure:
            draw_curves(self._picture, pd.DataFrame(self._skipped))
        for path, content in self._before.items() if failure else ():
            if content is None:
                path.unlink(missing_ok=True)
            else:
                write_bytes(path, content)

    def update(self, history: Sequence[EpochRecord]) -> None:
        """Write them, unless the last time was a moment ago."""
        start = time.monotonic()
        self._skipped = history if start < self._next else ()
        if self._skipped:
            return
        table = pd.DataFrame(history)
        draw_curves(self._picture, table)
        write_csv(self._table, table)
        end = time.monotonic()
        self._next = end + max(MIN_PAUSE, (end - start) / MAX_TIME_SHARE)
