"""The recorded results of a revision: predictions, metrics and dvc.lock."""

import csv
import io
import json
from array import array
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from image_pipeline.common import paths
from image_pipeline.common.errors import DataError, one_line
from image_pipeline.experiments.bootstrap import ModelPredictions
from image_pipeline.experiments.revisions import WORKSPACE, Revision
from image_pipeline.serialization import DECIMALS

LOCK = Path("dvc.lock")
PROBABILITY = "probability_of_actual"
MIN_PROBABILITY = 0.5 * 10**-DECIMALS  # the table rounds smaller ones to 0.000000


@dataclass(frozen=True)
class Predictions:
    """plots/predictions.csv, one row per test image.

    Attributes:
        names: the classes that occur, in any order.
        actual: the true class, as an index into `names`, int64 `[N]`.
        predicted: the predicted class, as an index into `names`, int64 `[N]`.
        confidence: the probability of the predicted class, float64 `[N]`.
        probability: that of the true class, float64 `[N]`; None if the table has no such column.
    """

    names: list[str]
    actual: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    probability: np.ndarray | None

    @property
    def errors(self) -> int:
        """The number of misclassified images."""
        return int((self.actual != self.predicted).sum())


@dataclass(frozen=True)
class Results:
    """The recorded results of a run.

    Attributes:
        revision: where they were read.
        predictions: of the test images.
        class_names: in the order of plots/classes.csv, or sorted if there is no such file.
        metrics: metrics/test.json; empty if there is no such file.
        lock: the stages of dvc.lock, by name.
        params: params.yaml.
    """

    revision: Revision
    predictions: Predictions
    class_names: list[str]
    metrics: dict[str, Any]
    lock: dict[str, dict[str, Any]]
    params: dict[str, Any]

    def hash_of(self, path: Path) -> str | None:
        """Return the hash of an output in dvc.lock; None if it is not there."""
        return output_hashes(self.lock).get(path.as_posix())

    def actual(self, class_index: Mapping[str, int]) -> np.ndarray:
        """Return the true classes by their index, int64 `[N]`."""
        found: np.ndarray = self._indices(class_index)[self.predictions.actual]
        return found

    def model_predictions(self, class_index: Mapping[str, int]) -> ModelPredictions:
        """Return the predictions, with classes by their index."""
        table = self.predictions
        predicted = self._indices(class_index)[table.predicted]
        return ModelPredictions(predicted, table.confidence, self.loss)

    @property
    def loss(self) -> np.ndarray | None:
        """Cross-entropy of each image, float64 `[N]`, in nats; None if unknown."""
        probability = self.predictions.probability
        return None if probability is None else -np.log(np.maximum(probability, MIN_PROBABILITY))

    def _indices(self, class_index: Mapping[str, int]) -> np.ndarray:
        return np.array([class_index[name] for name in self.predictions.names], np.int64)


def read_results(revision: Revision) -> Results:
    """Read the results of a revision; nothing is pulled.

    Raises:
        DataError: a file is missing or malformed.
    """
    lock = read_lock(revision)
    predictions = _read_predictions(revision, lock)
    params = _yaml(revision, paths.PARAMS)
    text = revision.read(paths.TEST_METRICS)
    try:
        metrics = json.loads(text) if text else {}
    except ValueError as error:
        raise _bad(revision, paths.TEST_METRICS, f"not valid JSON ({one_line(error)})") from None
    names = _class_names(revision)
    return Results(
        revision,
        predictions,
        [*names, *sorted({*predictions.names} - {*names})],
        metrics if isinstance(metrics, dict) else {},
        lock,
        params,
    )


def read_lock(revision: Revision) -> dict[str, dict[str, Any]]:
    """Return the stages of a revision's dvc.lock, by name.

    Raises:
        DataError: it is missing, empty or not YAML.
    """
    stages = _yaml(revision, LOCK).get("stages")
    if not isinstance(stages, dict) or not stages:
        raise _bad(revision, LOCK, "no run in it")
    return stages


def read_stages(lock: Path) -> dict[str, dict[str, Any]]:
    """Return the stages of a dvc.lock, by name; empty if there is no such file."""
    values = YAML(typ="safe").load(lock) if lock.is_file() else None
    return dict((values or {}).get("stages") or {})


def output_hashes(lock: Mapping[str, Any]) -> dict[str, str]:
    """Return the hashes of all outputs in the stages of a dvc.lock, by path."""
    outs = (out for stage in lock.values() for out in stage.get("outs", []))
    return {out["path"]: str(out.get("md5")) for out in outs}


def _read_predictions(revision: Revision, lock: Mapping[str, Any]) -> Predictions:
    path = paths.PREDICTIONS
    content = revision.read(path)
    if content is None:
        content = _from_cache(revision, output_hashes(lock).get(path.as_posix()))
    try:
        return _parsed(content)
    except (ValueError, IndexError, csv.Error) as error:
        raise _bad(revision, path, f"not a table of predictions ({one_line(error)})") from None


def _parsed(content: bytes) -> Predictions:
    """Parse the table without pandas, whose import takes longer than parsing 10,000 rows."""
    rows = csv.reader(io.TextIOWrapper(io.BytesIO(content), encoding="utf-8", newline=""))
    header = next(rows, [])
    actual_at, predicted_at = header.index("actual"), header.index("predicted")
    confidence_at = header.index("confidence")
    probability_at = header.index(PROBABILITY) if PROBABILITY in header else None
    codes: defaultdict[str, int] = defaultdict()
    codes.default_factory = codes.__len__
    actual, predicted, confidence, probability = array("q"), array("q"), array("d"), array("d")
    for row in rows:
        actual.append(codes[row[actual_at]])
        predicted.append(codes[row[predicted_at]])
        confidence.append(float(row[confidence_at]))
        if probability_at is not None:
            probability.append(float(row[probability_at]))
    if not actual:
        raise ValueError("no rows")
    for name, values in (("confidence", confidence), (PROBABILITY, probability)):
        numbers = np.asarray(values)
        if not ((numbers >= 0) & (numbers <= 1)).all():
            raise ValueError(f"every {name} must be a number from 0 to 1")
    return Predictions(
        list(codes),
        np.asarray(actual, np.int64),
        np.asarray(predicted, np.int64),
        np.asarray(confidence),
        None if probability_at is None else np.asarray(probability),
    )


def _from_cache(revision: Revision, md5: str | None) -> bytes:
    """Read the predictions from DVC's cache; docs/experiments.md says when they are there."""
    path = paths.PREDICTIONS
    if md5 is None:
        raise DataError(f"{path}: neither in {revision} nor in its {LOCK}; run `dvc repro` there")
    all_commits = "" if revision.commit is None else "--all-commits "
    from dvc.repo import Repo  # type: ignore[import-untyped]

    with Repo() as repo:
        cached = Path(repo.cache.local.oid_to_path(md5))
        if cached.is_file():
            return cached.read_bytes()
    raise DataError(
        f"{path}: {revision} keeps it in DVC's cache, which does not have it; "
        f"run `dvc pull {all_commits}{path}`"
    )


def _class_names(revision: Revision) -> list[str]:
    text = revision.read(paths.CLASSES) or b""
    rows = csv.DictReader(io.StringIO(text.decode(errors="replace")))
    return [row["class"] for row in rows if "class" in row]


def _yaml(revision: Revision, path: Path) -> dict[str, Any]:
    content = revision.read(path)
    if content is None:
        raise DataError(f"{path}: not in {revision}; there is no run to read")
    try:
        values = YAML(typ="safe").load(content)
    except YAMLError as error:
        raise _bad(revision, path, f"not valid YAML ({one_line(error)})") from None
    return values if isinstance(values, dict) else {}


def _bad(revision: Revision, path: Path, reason: str) -> DataError:
    remedy = "run `dvc repro`" if revision.name == WORKSPACE else "choose another revision"
    return DataError(f"{path} in {revision}: {reason}; {remedy}")
