"""What a revision says of its run: the predictions, the metrics, and dvc.lock."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from image_pipeline.common import paths
from image_pipeline.common.errors import DataError, one_line
from image_pipeline.common.files import DECIMALS
from image_pipeline.experiments.bootstrap import Judged
from image_pipeline.experiments.revisions import WORKSPACE, Revision

LOCK = Path("dvc.lock")
PROBABILITY = "probability_of_actual"
FLOOR = 0.5 * 10**-DECIMALS  # what a probability of 0.000000 in the table stands for


@dataclass(frozen=True)
class Results:
    """A run, as it was recorded.

    Attributes:
        revision: where.
        predictions: one row per test image: `actual`, `predicted` (categories), `confidence`, and
            `probability_of_actual` where the revision has it.
        class_names: in the order of the metrics' table, or, without one, by name.
        metrics: metrics/test.json; empty where there is none.
        lock: the stages of dvc.lock, by name.
        params: params.yaml.
    """

    revision: Revision
    predictions: pd.DataFrame
    class_names: list[str]
    metrics: dict[str, Any]
    lock: dict[str, dict[str, Any]]
    params: dict[str, Any]

    def hash_of(self, path: Path) -> str | None:
        """Return the hash that dvc.lock has of an output; None if it has none."""
        return output_hash(self.lock, path)

    def judged(self, names: Mapping[str, int]) -> Judged:
        """Return the predictions as numbers, each class being its position in `names`."""
        table = self.predictions
        loss = None
        if PROBABILITY in table:
            loss = -np.log(np.maximum(table[PROBABILITY].to_numpy(np.float64), FLOOR))
        predicted = positions(table["predicted"], names)
        return Judged(predicted, table["confidence"].to_numpy(np.float64), loss)


def positions(column: pd.Series, names: Mapping[str, int]) -> np.ndarray:
    """Return where each class of a column of categories stands in `names`, int64 `[N]`."""
    of_category = np.array([names[name] for name in column.cat.categories], np.int64)
    found: np.ndarray = of_category[column.cat.codes.to_numpy()]
    return found


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
    seen = {*predictions["actual"].cat.categories, *predictions["predicted"].cat.categories}
    names = _class_names(revision)
    return Results(
        revision,
        predictions,
        [*names, *sorted(seen - {*names})],
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


def output_hash(lock: Mapping[str, Any], path: Path) -> str | None:
    """Return the hash of an output in the stages of a dvc.lock; None if it has none."""
    for stage in lock.values():
        for out in stage.get("outs", []):
            if out["path"] == path.as_posix():
                return str(out.get("md5"))
    return None


def _read_predictions(revision: Revision, lock: Mapping[str, Any]) -> pd.DataFrame:
    path = paths.PREDICTIONS
    content = revision.read(path)
    if content is None:
        content = _from_cache(revision, output_hash(lock, path))
    try:
        header = pd.read_csv(io.BytesIO(content), nrows=0).columns
        types: dict[str, type] = {"actual": str, "predicted": str, "confidence": float}
        if PROBABILITY in header:
            types[PROBABILITY] = float
        table = pd.read_csv(
            io.BytesIO(content),
            usecols=list(types),
            dtype=types,
            keep_default_na=False,  # a class may be called NA
        )
    except (ValueError, OverflowError) as error:
        raise _bad(revision, path, f"no table of predictions ({one_line(error)})") from None
    if not len(table):
        raise _bad(revision, path, "it has no rows")
    for name in table.columns.drop(["actual", "predicted"]):
        if not table[name].between(0, 1).all():
            raise _bad(revision, path, f"{name} must be numbers from 0 to 1 throughout")
    return table.astype({"actual": "category", "predicted": "category"})


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
