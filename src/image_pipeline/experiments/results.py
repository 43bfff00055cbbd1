"""What a revision says of its run: the predictions, the metrics, and dvc.lock."""

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
from image_pipeline.experiments.bootstrap import Judged
from image_pipeline.experiments.revisions import WORKSPACE, Revision
from image_pipeline.serialization import DECIMALS

LOCK = Path("dvc.lock")
PROBABILITY = "probability_of_actual"
FLOOR = 0.5 * 10**-DECIMALS  # what a probability of 0.000000 in the table stands for


@dataclass(frozen=True)
class Predictions:
    """A row for each test image.

    Attributes:
        names: the classes that occur, in no particular order.
        actual: each image's class, as its position in `names`, int64 `[N]`.
        predicted: the class that it was taken for, alike.
        confidence: the probability of that class, float64 `[N]`.
        probability: that of the actual class, float64 `[N]`; None where the table lacks it.
    """

    names: list[str]
    actual: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    probability: np.ndarray | None

    @property
    def errors(self) -> int:
        """How many images are taken for another class."""
        return int((self.actual != self.predicted).sum())


@dataclass(frozen=True)
class Results:
    """A run, as it was recorded.

    Attributes:
        revision: where.
        predictions: of the test images.
        class_names: in the order of the metrics' table, or, without one, by name.
        metrics: metrics/test.json; empty where there is none.
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
        """Return the hash that dvc.lock has of an output; None if it has none."""
        return output_hashes(self.lock).get(path.as_posix())

    def actual(self, names: Mapping[str, int]) -> np.ndarray:
        """Return each image's class, as its position in `names`, int64 `[N]`."""
        found: np.ndarray = self._positions(names)[self.predictions.actual]
        return found

    def judged(self, names: Mapping[str, int]) -> Judged:
        """Return the predictions as numbers, each class being its position in `names`."""
        table = self.predictions
        predicted = self._positions(names)[table.predicted]
        return Judged(predicted, table.confidence, self.loss)

    @property
    def loss(self) -> np.ndarray | None:
        """Each image's loss, float64 `[N]`, in nats; None where it is not known."""
        probability = self.predictions.probability
        return None if probability is None else -np.log(np.maximum(probability, FLOOR))

    def _positions(self, names: Mapping[str, int]) -> np.ndarray:
        return np.array([names[name] for name in self.predictions.names], np.int64)


def read_results(revision: Revision) -> Results:
    """Read what a revision has of its run; nothing is pulled.

    Raises:
        DataError: a file is missing or is not what it should be.
    """
    lock = read_lock(revision)
    predictions = _read_predictions(revision, lock)
    params = _yaml(revision, paths.PARAMS)
    text = revision.read(paths.TEST_METRICS)
    try:
        metrics = json.loads(text) if text else {}
    except ValueError as error:
        raise _bad(revision, paths.TEST_METRICS, f"no valid JSON ({one_line(error)})") from None
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
        DataError: there is none, or it is no YAML.
    """
    stages = _yaml(revision, LOCK).get("stages")
    if not isinstance(stages, dict) or not stages:
        raise _bad(revision, LOCK, "it has no run")
    return stages


def output_hashes(lock: Mapping[str, Any]) -> dict[str, str]:
    """Return the hash of every output in the stages of a dvc.lock, by its path."""
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
        raise _bad(revision, path, f"no table of predictions ({one_line(error)})") from None


def _parsed(content: bytes) -> Predictions:
    """Parse the table; not by pandas, whose import takes longer than ten thousand rows."""
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
        raise ValueError("it has no rows")
    for name, values in (("confidence", confidence), (PROBABILITY, probability)):
        numbers = np.asarray(values)
        if not ((numbers >= 0) & (numbers <= 1)).all():
            raise ValueError(f"{name} must be numbers from 0 to 1 throughout")
    return Predictions(
        list(codes),
        np.asarray(actual, np.int64),
        np.asarray(predicted, np.int64),
        np.asarray(confidence),
        None if probability_at is None else np.asarray(probability),
    )


def _from_cache(revision: Revision, md5: str | None) -> bytes:
    """Return the predictions from DVC's cache, where a project may keep them; see the docs."""
    path = paths.PREDICTIONS
    if md5 is None:
        raise DataError(f"{path}: neither in {revision} nor in its {LOCK}; run `dvc repro` there")
    everywhere = "" if revision.commit is None else "--all-commits "
    from dvc.repo import Repo  # type: ignore[import-untyped]

    with Repo() as repo:
        cached = Path(repo.cache.local.oid_to_path(md5))
        if cached.is_file():
            return cached.read_bytes()
    raise DataError(
        f"{path}: {revision} keeps it in DVC's cache, and it is not there; "
        f"run `dvc pull {everywhere}{path}`"
    )


def _class_names(revision: Revision) -> list[str]:
    text = revision.read(paths.CLASSES) or b""
    rows = csv.DictReader(io.StringIO(text.decode(errors="replace")))
    return [row["class"] for row in rows if "class" in row]


def _yaml(revision: Revision, path: Path) -> dict[str, Any]:
    content = revision.read(path)
    if content is None:
        raise DataError(f"{path}: not in {revision}; there is no run to be read")
    try:
        values = YAML(typ="safe").load(content)
    except YAMLError as error:
        raise _bad(revision, path, f"not valid YAML ({one_line(error)})") from None
    return values if isinstance(values, dict) else {}


def _bad(revision: Revision, path: Path, reason: str) -> DataError:
    remedy = "run `dvc repro`" if revision.name == WORKSPACE else "choose another revision"
    return DataError(f"{path} in {revision}: {reason}; {remedy}")
