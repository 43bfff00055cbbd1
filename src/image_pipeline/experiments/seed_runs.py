"""Runs of the same settings with several seeds: summary statistics and paired tests."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import stdtr, stdtrit

from image_pipeline.common import paths
from image_pipeline.common.errors import DataError, one_line
from image_pipeline.experiments.changes import flatten
from image_pipeline.experiments.results import file_hashes, read_lock, read_mapping
from image_pipeline.experiments.revisions import Revision, experiments
from image_pipeline.experiments.significance import LEVEL

if TYPE_CHECKING:
    import pandas as pd

# Values in the metrics files that are settings, not results.
NO_METRIC = ("epochs", "images", "portable", "portable_to_arm")
# The most that a metric can be, by the last part of its name; the least is 0. Another one has no
# known bounds, and errors are at most the images of the test split.
MOST = {"accuracy": 1.0, "macro_f1": 1.0, "expected_calibration_error": 1.0, "loss": math.inf}
ANY = (-math.inf, math.inf)
CURVES = ["epoch", "train_loss", "validation_loss", "train_accuracy", "validation_accuracy"]


@dataclass(frozen=True)
class SeedRun:
    """A run with one seed.

    Attributes:
        revision: the experiment.
        metrics: from metrics/test.json, then metrics/train.json, by dotted name.
        bounds: the least and the most that each metric can be.
        data: hashes of the training, validation and test tensors.
    """

    revision: Revision
    metrics: dict[str, float]
    bounds: dict[str, tuple[float, float]]
    data: tuple[str | None, ...]


@dataclass(frozen=True)
class Summary:
    """Summary statistics of a metric over seeds.

    Attributes:
        mean: arithmetic.
        deviation: the sample standard deviation.
        interval: the 95% interval of the mean, by Student's t, without what the metric cannot be.
        least, most: minimum and maximum.
    """

    mean: float
    deviation: float
    interval: tuple[float, float]
    least: float
    most: float


def experiment_name(digest: str, seed: int | str) -> str:
    """Return the name of the experiment with this config hash and seed."""
    return f"seeds-{digest}-{seed}"


def find_seed_runs(digest: str) -> dict[int, Revision]:
    """Return the experiments with this config hash by seed, in ascending order."""
    pattern = re.compile(experiment_name(digest, r"(\d+)"))
    found = {
        int(match[1]): revision
        for name, revision in experiments().items()
        if (match := pattern.fullmatch(name))
    }
    return dict(sorted(found.items()))


def read_seed_runs(revisions: Mapping[int, Revision]) -> dict[int, SeedRun]:
    """Read the results of runs from Git.

    Raises:
        DataError: results are missing or malformed, or from different data.
    """
    runs = {seed: _read_seed_run(revision) for seed, revision in revisions.items()}
    first, *others = runs.values()
    for other in others:
        if other.data != first.data:
            raise DataError(
                f"{first.revision} and {other.revision} have different data: the data set changed "
                "between them; `dvc exp remove` the old runs and run them again"
            )
    return runs


def _read_seed_run(revision: Revision) -> SeedRun:
    values: dict[str, float] = {}
    for path in (paths.TEST_METRICS, paths.TRAIN_METRICS):
        for name, value in flatten(read_mapping(revision, path)).items():
            if isinstance(value, int | float):
                values[name] = float(value)
    most = MOST | {"errors": values.get("images", math.inf)}
    metrics = {name: value for name, value in values.items() if name not in NO_METRIC}
    last = {name: name.rpartition(".")[2] for name in metrics}
    bounds = {name: (0.0, most[last[name]]) if last[name] in most else ANY for name in metrics}
    hashes = file_hashes(read_lock(revision))
    tensors = (paths.TRAIN_TENSORS, paths.VALIDATION_TENSORS, paths.TEST_TENSORS)
    return SeedRun(
        revision, metrics, bounds, tuple(hashes.get(path.as_posix()) for path in tensors)
    )


def summarize(values: Sequence[float], bounds: tuple[float, float] = ANY) -> Summary:
    """Return the summary statistics of a metric's values, one per seed; at least two.

    Args:
        values: of the metric.
        bounds: the least and the most that it can be.
    """
    array = np.asarray(values)
    mean, deviation = float(array.mean()), float(array.std(ddof=1))
    half = half_width(len(array)) * deviation
    interval = max(bounds[0], mean - half), min(bounds[1], mean + half)
    return Summary(mean, deviation, interval, float(array.min()), float(array.max()))


def half_width(count: int) -> float:
    """Return half the width of a mean's 95% interval from so many values, in their deviations."""
    return float(stdtrit(count - 1, 1 - LEVEL / 2)) / math.sqrt(count)


def common_metrics(runs: Sequence[SeedRun]) -> list[str]:
    """Return the names of the metrics that all runs have, in the order of the first run."""
    return [name for name in runs[0].metrics if all(name in r.metrics for r in runs)]


def paired_t_test(differences: Sequence[float]) -> float:
    """Return the two-sided p value of Student's paired t test.

    Args:
        differences: between two settings, one per seed; at least two.
    """
    values = np.asarray(differences)
    error = values.std(ddof=1) / math.sqrt(len(values))
    if error == 0:
        return 0.0 if values.mean() else 1.0
    return float(2 * stdtr(len(values) - 1, -abs(values.mean()) / error))


def read_history(revision: Revision) -> "pd.DataFrame":
    """Read the learning curves of a run: one row per epoch, the columns CURVES as float64.

    Raises:
        DataError: plots/history.csv is missing or malformed.
    """
    import pandas as pd  # takes longer than everything else here

    try:
        table = pd.read_csv(io.BytesIO(revision.read(paths.HISTORY) or b""), dtype=float)
        return table[CURVES]
    except (KeyError, ValueError) as error:
        raise DataError(
            f"{paths.HISTORY} in {revision}: not a table of curves ({one_line(error)})"
        ) from None
