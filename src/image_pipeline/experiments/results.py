"""The recorded results of a revision: predictions, metrics and dvc.lock."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from image_pipeline.common import paths
from image_pipeline.common.errors import DataError, one_line
from image_pipeline.experiments.revisions import WORKSPACE, Revision
from image_pipeline.serialization import DECIMALS

LOCK = Path("dvc.lock")
PROBABILITY = "probability_of_actual"
MIN_PROBABILITY = 0.5 * 10**-DECIMALS  # the table rounds smaller ones to 0.000000


@dataclass(frozen=True)
class Predictions:
    """plots/predictions.csv, one row per test image.

    Attributes:
        actual: the name of the true class, str `[N]`.
        predicted: the name of the predicted class, str `[N]`.
        confidence: the probability of the predicted class, float64 `[N]`.
        probability: that of the true class, float64 `[N]`; None if the table has no such column.
    """

    actual: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    probability: np.ndarray | None


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
        return file_hashes(self.lock).get(path.as_posix())

    @property
    def loss(self) -> np.ndarray | None:
        """Cross-entropy of each image, float64 `[N]`, in nats; None if unknown."""
        probability = self.predictions.probability
        return None if probability is None else -np.log(np.maximum(probability, MIN_PROBABILITY))


def read_results(revision: Revision) -> Results:
    """Read the results of a revision; nothing is pulled.

    Raises:
        DataError: a file is missing or malformed.
    """
    lock = read_lock(revision)
    predictions = _read_predictions(revision, lock)
    params = read_mapping(revision, paths.PARAMS)
    has_metrics = revision.read(paths.TEST_METRICS) is not None
    metrics = read_mapping(revision, paths.TEST_METRICS) if has_metrics else {}
    names = _class_names(revision)
    others = {*predictions.actual.tolist(), *predictions.predicted.tolist()} - {*names}
    return Results(revision, predictions, [*names, *sorted(others)], metrics, lock, params)


def read_mapping(revision: Revision, path: Path) -> dict[str, Any]:
    """Return the content of a YAML or JSON file; empty if it is not a mapping.

    Raises:
        DataError: it is missing or malformed.
    """
    content = revision.read(path)
    if content is None:
        raise DataError(f"{path}: not in {revision}; there is no run to read")
    kind = path.suffix[1:].upper()
    try:
        values = json.loads(content) if kind == "JSON" else YAML(typ="safe").load(content)
    except (ValueError, YAMLError) as error:
        raise _bad(revision, path, f"not valid {kind} ({one_line(error)})") from None
    return values if isinstance(values, dict) else {}


def read_lock(revision: Revision) -> dict[str, dict[str, Any]]:
    """Return the stages of a revision's dvc.lock, by name.

    Raises:
        DataError: it is missing, empty or not YAML.
    """
    stages = read_mapping(revision, LOCK).get("stages")
    if not isinstance(stages, dict) or not stages:
        raise _bad(revision, LOCK, "no run in it")
    return stages


def read_stages(lock: Path) -> dict[str, dict[str, Any]]:
    """Return the stages of a dvc.lock, by name; empty if there is no such file."""
    values = YAML(typ="safe").load(lock) if lock.is_file() else None
    return dict((values or {}).get("stages") or {})


def file_hashes(lock: Mapping[str, Any], kind: str = "outs") -> dict[str, str]:
    """Return the hashes of all outputs ("outs") or dependencies ("deps") in a dvc.lock, by path."""
    entries = (entry for stage in lock.values() for entry in stage.get(kind, []))
    return {entry["path"]: str(entry.get("md5")) for entry in entries}


def _read_predictions(revision: Revision, lock: Mapping[str, Any]) -> Predictions:
    path = paths.PREDICTIONS
    content = revision.read(path)
    if content is None:
        content = _from_cache(revision, file_hashes(lock).get(path.as_posix()))
    try:
        return _parsed(content)
    except (ValueError, IndexError, csv.Error) as error:
        raise _bad(revision, path, f"not a table of predictions ({one_line(error)})") from None


def _parsed(content: bytes) -> Predictions:
    """Parse the table without pandas, whose import takes longer than parsing 10,000 rows."""
    header, *rows = csv.reader(io.StringIO(content.decode(), newline=""))
    if not rows:
        raise ValueError("no rows")

    def column(name: str, kind: type) -> np.ndarray:
        index = header.index(name)
        return np.array([row[index] for row in rows], kind)

    numbers = {"confidence": column("confidence", float)}
    if PROBABILITY in header:
        numbers[PROBABILITY] = column(PROBABILITY, float)
    for name, values in numbers.items():
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError(f"every {name} must be a number from 0 to 1")
    return Predictions(
        column("actual", str),
        column("predicted", str),
        numbers["confidence"],
        numbers.get(PROBABILITY),
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


def _bad(revision: Revision, path: Path, reason: str) -> DataError:
    remedy = "run `dvc repro`" if revision.name == WORKSPACE else "choose another revision"
    return DataError(f"{path} in {revision}: {reason}; {remedy}")
