"""Runs of the same settings under several seeds: their spread, alone and beside other settings."""

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import stdtr, stdtrit

from image_pipeline.common import paths
from image_pipeline.common.errors import DataError, one_line
from image_pipeline.experiments.changes import flat
from image_pipeline.experiments.paired import LEVEL
from image_pipeline.experiments.results import output_hashes, read_lock
from image_pipeline.experiments.revisions import Revision, experiments

if TYPE_CHECKING:
    from image_pipeline.training.history import EpochRecord

SAME_EVERY_TIME = ("epochs", "images", "portable")  # figures of the settings, not of a run


@dataclass(frozen=True)
class Repeat:
    """A run under one seed.

    Attributes:
        revision: the experiment.
        metrics: by dotted name: those of metrics/test.json, then those of metrics/train.json.
        data: hashes of the tensors that it learnt from and was tested on.
    """

    revision: Revision
    metrics: dict[str, float]
    data: tuple[str | None, ...]


@dataclass(frozen=True)
class Spread:
    """How a figure lies over the seeds.

    Attributes:
        mean: of all.
        deviation: the standard deviation, of a sample; None for a single seed.
        interval: the 95% interval of the mean, by Student's t; None for a single seed.
        least, most: of all.
    """

    mean: float
    deviation: float | None
    interval: tuple[float, float] | None
    least: float
    most: float


def name_of(key: str, seed: int) -> str:
    """Return the name of the experiment that runs settings under a seed."""
    return f"seeds-{key}-{seed}"


def find_repeats(key: str) -> dict[int, Revision]:
    """Return the experiments that ran the settings of this key, by seed, in their order."""
    before = name_of(key, 0).removesuffix("0")
    found = {
        int(name.removeprefix(before)): revision
        for name, revision in experiments().items()
        if name.startswith(before) and name.removeprefix(before).isdecimal()
    }
    return dict(sorted(found.items()))


def read_repeats(revisions: Mapping[int, Revision]) -> dict[int, Repeat]:
    """Read what Git has of repeated runs.

    Raises:
        DataError: a run is not recorded whole, or they are not of the same images.
    """
    repeats = {seed: _read_repeat(revision) for seed, revision in revisions.items()}
    first, *others = repeats.values()
    for other in others:
        if other.data != first.data:
            raise DataError(
                f"{first.revision} and {other.revision} are of other images: the data set has "
                "changed between them; `dvc exp remove` the old ones and run them anew"
            )
    return repeats


def _read_repeat(revision: Revision) -> Repeat:
    metrics: dict[str, float] = {}
    for path in (paths.TEST_METRICS, paths.TRAIN_METRICS):
        try:
            values = json.loads(revision.read(path) or b"")
        except ValueError as error:
            raise DataError(f"{path} in {revision}: no metrics ({one_line(error)})") from None
        for name, figure in flat(values).items():
            if name not in SAME_EVERY_TIME and isinstance(figure, int | float):
                metrics[name] = float(figure)
    hashes = output_hashes(read_lock(revision))
    tensors = (paths.TRAIN_TENSORS, paths.VALIDATION_TENSORS, paths.TEST_TENSORS)
    return Repeat(revision, metrics, tuple(hashes.get(path.as_posix()) for path in tensors))


def spread(figures: Sequence[float]) -> Spread:
    """Return how a figure lies over the seeds."""
    values = np.asarray(figures)
    mean, least, most = float(values.mean()), float(values.min()), float(values.max())
    if len(values) < 2:
        return Spread(mean, None, None, least, most)
    deviation = float(values.std(ddof=1))
    half = t_quantile(len(values) - 1) * deviation / math.sqrt(len(values))
    return Spread(mean, deviation, (mean - half, mean + half), least, most)


def t_quantile(freedom: int) -> float:
    """Return how many standard errors a 95% interval extends to either side, by Student's t."""
    return float(stdtrit(freedom, 1 - LEVEL / 2))


def spreads(repeats: Sequence[Repeat]) -> dict[str, Spread]:
    """Return the spread of every metric that all runs have."""
    return {name: spread([r.metrics[name] for r in repeats]) for name in common_metrics(repeats)}


def common_metrics(repeats: Sequence[Repeat]) -> list[str]:
    """Return the names of the metrics that all runs have, in the order of the first."""
    return [name for name in repeats[0].metrics if all(name in r.metrics for r in repeats)]


def paired_p(differences: Sequence[float]) -> float:
    """Return the two-sided p value of Student's paired t test.

    Args:
        differences: of two settings, seed by seed; two at least.
    """
    values = np.asarray(differences)
    error = values.std(ddof=1) / math.sqrt(len(values))
    if error == 0:
        return 0.0 if values.mean() else 1.0
    return float(2 * stdtr(len(values) - 1, -abs(values.mean()) / error))


def read_history(revision: Revision) -> "list[EpochRecord]":
    """Read the curves of a run.

    Raises:
        DataError: it has none.
    """
    # Here: the import of pandas takes as long as all else.
    import pandas as pd

    from image_pipeline.training.history import COLUMNS, EpochRecord

    try:
        table = pd.read_csv(io.BytesIO(revision.read(paths.HISTORY) or b""), dtype=float)
        return [EpochRecord(*row) for row in table[COLUMNS].itertuples(index=False)]
    except (KeyError, ValueError) as error:
        raise DataError(f"{paths.HISTORY} in {revision}: no curves ({one_line(error)})") from None
