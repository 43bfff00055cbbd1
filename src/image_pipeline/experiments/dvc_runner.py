"""Trials as experiments on DVC's queue, which end after training."""

import io
import json
from typing import Any

import pandas as pd

from image_pipeline.common import paths
from image_pipeline.common.params import read_params
from image_pipeline.experiments.dvc_queue import Queue
from image_pipeline.experiments.revisions import experiments

STAGE = "train"


def param_overrides(values: dict[str, Any]) -> list[str]:
    """Format a trial's values as `dvc exp run -S` takes them."""
    formatted = {k: v if isinstance(v, str) else json.dumps(v) for k, v in values.items()}
    return [f"{key}={text.replace(' ', '')}" for key, text in formatted.items()]


class DvcRunner:
    """Runs trials on DVC's queue."""

    def __init__(self, digest: str, queue: Queue) -> None:
        """Take the hash that identifies the search, and an open queue."""
        self._digest = digest
        self._queue = queue
        self._epochs: dict[str, int] = {}
        self._already_run: set[str] = set()  # by an earlier process, and not yet returned by poll

    def start(self, number: int, values: dict[str, Any]) -> str:
        """Queue a trial with these values of the search space; return the experiment's name.

        One that an earlier process has run is not run again.
        """
        name = f"search-{self._digest}-{number}"
        self._epochs[name] = values.get("train.epochs", read_params().train.epochs)
        if name in experiments():
            self._already_run.add(name)
        else:
            self._queue.add({name: param_overrides(values)}, [STAGE])
        return name

    def poll(self) -> tuple[set[str], set[str]]:
        """Return which trials have succeeded, and which failed, since the last call."""
        succeeded, failed = self._queue.poll()
        succeeded |= self._already_run
        self._already_run = set()
        return succeeded, failed

    def curves(self, name: str) -> tuple[pd.DataFrame, int]:
        """Return the learning curves so far, and the total number of epochs."""
        finished = experiments().get(name)
        if finished:
            text = finished.read(paths.HISTORY)
        else:
            path = self._queue.history(name)
            text = path.read_bytes() if path and path.is_file() else None
        table = pd.read_csv(io.BytesIO(text)) if text else pd.DataFrame({"epoch": []})
        return table, self._epochs[name]

    def prune(self, name: str) -> None:
        """Kill a trial."""
        self._queue.kill(name)
