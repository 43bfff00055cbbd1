"""Read and check the run's metrics and tables for the model card."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from image_pipeline.common import paths
from image_pipeline.common.errors import DataError, one_line

Row = dict[str, str]  # values as text, exactly as in the file
# Columns that the model card needs: the one that names a row, and numeric ones.
TABLES = {
    paths.DATA_TABLE: ("split", ("images", "duplicates", "leaked")),
    paths.CLASSES: ("class", ("images", "precision", "recall", "f1")),
    paths.RELIABILITY: ("confidence", ("confidence", "accuracy", "images")),
}
WRITTEN_BY_TENSORIZE = (paths.DATA_METRICS, paths.DATA_TABLE)


class _Values(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)


class Pixels(_Values):
    """Statistics of the training images, per channel, in units of a full pixel."""

    mean: list[float]
    standard_deviation: list[float]


class DataMetrics(_Values):
    """The keys of `metrics/data.json` that the model card needs."""

    classes_with_few_images: list[str]
    images_skipped: int
    leaked_test_images: int
    pixels: Pixels


class Scores(_Values):
    """Scores on one split."""

    accuracy: float
    loss: float


class TrainMetrics(_Values):
    """The keys of `metrics/train.json` that the model card needs."""

    epochs: int
    portable: bool
    portable_to_arm: bool
    train: Scores
    validation: Scores


class TestMetrics(_Values, extra="allow"):
    """The keys of `metrics/test.json`: those that the model card needs, and any others."""

    accuracy: float
    accuracy_interval_95: tuple[float, float]
    errors: int
    expected_calibration_error: float
    images: int
    loss: float
    macro_f1: float

    @property
    def others(self) -> dict[str, float]:
        """Metrics that were added to `evaluation.metrics`, as far as they are numbers."""
        extra = self.__pydantic_extra__ or {}
        return {key: value for key, value in extra.items() if isinstance(value, (int, float))}


@dataclass(frozen=True)
class RunMetrics:
    """The run's metrics; `splits`, `classes` and `reliability` are rows of CSV files."""

    data: DataMetrics
    train: TrainMetrics
    test: TestMetrics
    splits: list[Row]
    classes: list[Row]
    reliability: list[Row]


Metrics = TypeVar("Metrics", bound=_Values)


def read_run_metrics(class_names: tuple[str, ...]) -> RunMetrics:
    """Read them from metrics/ and plots/.

    Raises:
        DataError: a file is missing or invalid, or has other classes.
    """
    run = RunMetrics(
        data=_read_json(paths.DATA_METRICS, DataMetrics),
        train=_read_json(paths.TRAIN_METRICS, TrainMetrics),
        test=_read_json(paths.TEST_METRICS, TestMetrics),
        splits=_read_table(paths.DATA_TABLE),
        classes=_read_table(paths.CLASSES),
        reliability=_read_table(paths.RELIABILITY),
    )
    if tuple(row["class"] for row in run.classes) != class_names:
        raise _invalid(paths.CLASSES, f"its rows are not the classes of {paths.MODEL}")
    return run


def _read_json(path: Path, schema: type[Metrics]) -> Metrics:
    try:
        return schema.model_validate_json(_read_text(path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise _invalid(path, f"{key or 'the whole file'}: {one_line(first['msg'])}") from None


def _read_table(path: Path) -> list[Row]:
    name, numbers = TABLES[path]
    try:
        rows = list(csv.DictReader(_read_text(path).splitlines(), strict=True))
        if not rows:
            raise ValueError("no rows")
        for row in rows:
            if not row[name] or not all(math.isfinite(float(row[key])) for key in numbers):
                raise ValueError("a value is missing")
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        columns = ", ".join(dict.fromkeys((name, *numbers)))
        raise _invalid(path, f"not a table of {columns} ({one_line(repr(error))})") from None
    return rows


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path}: not found; run `dvc repro {_stage_of(path)}`") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise _invalid(path, f"it cannot be read ({reason})") from None


def _stage_of(path: Path) -> str:
    if path == paths.TRAIN_METRICS:
        return "train"
    return "tensorize" if path in WRITTEN_BY_TENSORIZE else "evaluate"


def _invalid(path: Path, reason: str) -> DataError:
    stage = _stage_of(path)
    return DataError(f"{path}: {reason}; run `dvc repro --force {stage}` to write it again")
