"""Trials as experiments of DVC's queue, which end after training."""

import io
from typing import Any

import pandas as pd

from image_pipeline.common import paths
from image_pipeline.common.params import read_params
from image_pipeline.experiments.queue import Queue
from image_pipeline.experiments.revisions import experiments
from image_pipeline.experiments.spaces import in_params

STAGE = "train"


def settings_of(values: dict[str, Any]) -> list[str]:
    """Return values of a space as `dvc exp run -S` takes them."""
    return [f"{key}={_written(in_params(value))}" for key, value in values.items()]


def _written(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).replace(" ", "")


class DvcRunner:
    """Runs trials by DVC's queue; see `trials.Runner`."""

    def __init__(self, key: str, queue: Queue) -> None:
        """Name the search, and the open queue."""
        self._key = key
        self._queue = queue
        self._epochs: dict[str, int] = {}
        self._there: set[str] = set()  # ended in an earlier process, and not told of yet

    def start(self, number: int, values: dict[str, Any]) -> str:
        """Queue a trial, unless it has run in an earlier process."""
        name = f"search-{self._key}-{number}"
        self._epochs[name] = values.get("train.epochs", read_params().train.epochs)
        if name in experiments():
            self._there.add(name)
        else:
            self._queue.add({name: settings_of(values)}, [STAGE])
        return name

    def ended(self) -> tuple[set[str], set[str]]:
        """Return which trials have ended well, and which failed, since the last call."""
        well, failed = self._queue.ended()
        well |= self._there
        self._there = set()
        return well, failed

    def curves(self, name: str) -> tuple[pd.DataFrame, int]:
        """Return the epochs that a run has behind it, and how many it will have."""
        there = experiments().get(name)
        if there:
            text = there.read(paths.HISTORY)
        else:
            path = self._queue.history(name)
            text = path.read_bytes() if path and path.is_file() else None
        table = pd.read_csv(io.BytesIO(text)) if text else pd.DataFrame({"epoch": []})
        return table, self._epochs[name]

    def give_up(self, name: str) -> None:
        """End a run."""
        self._queue.give_up(name)
