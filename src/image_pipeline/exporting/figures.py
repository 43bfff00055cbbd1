"""The run's own files, read and checked for the page on the model."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from image_pipeline.common import paths
from image_pipeline.common.errors import DataError, one_line

Row = dict[str, str]  # as it stands in the file, numbers too
# The columns that the page has of each table: the name of a row, and numbers.
TABLES = {
    paths.DATA_TABLE: ("split", ("images", "duplicates", "leaked")),
    paths.CLASSES: ("class", ("images", "precision", "recall", "f1")),
    paths.RELIABILITY: ("confidence", ("confidence", "accuracy", "images")),
}
MADE_BY_TENSORIZE = (paths.DATA_METRICS, paths.DATA_TABLE)


class _Values(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)


class Pixels(_Values):
    """Of the training images, per channel, in units of a full pixel."""

    mean: list[float]
    standard_deviation: list[float]


class DataFigures(_Values):
    """What the page has of `metrics/data.json`."""

    classes_with_few_images: list[str]
    images_skipped: int
    leaked_test_images: int
    pixels: Pixels


class Scores(_Values):
    """Of one split."""

    accuracy: float
    loss: float


class TrainFigures(_Values):
    """What the page has of `metrics/train.json`."""

    epochs: int
    portable: bool
    train: Scores
    validation: Scores


class TestFigures(_Values):
    """What the page has of `metrics/test.json`."""

    accuracy: float
    accuracy_interval_95: tuple[float, float]
    errors: int
    expected_calibration_error: float
    images: int
    loss: float
    macro_f1: float


@dataclass(frozen=True)
class Figures:
    """What the run measured; `splits`, `classes` and `reliability` are rows of CSV files."""

    data: DataFigures
    train: TrainFigures
    test: TestFigures
    splits: list[Row]
    classes: list[Row]
    reliability: list[Row]


Kind = TypeVar("Kind", bound=_Values)


def read_figures(class_names: tuple[str, ...]) -> Figures:
    """Read them from metrics/ and plots/.

    Raises:
        DataError: a file is missing, or not what it should be, or of other classes.
    """
    figures = Figures(
        data=_metrics(paths.DATA_METRICS, DataFigures),
        train=_metrics(paths.TRAIN_METRICS, TrainFigures),
        test=_metrics(paths.TEST_METRICS, TestFigures),
        splits=_table(paths.DATA_TABLE),
        classes=_table(paths.CLASSES),
        reliability=_table(paths.RELIABILITY),
    )
    if tuple(row["class"] for row in figures.classes) != class_names:
        raise _broken(paths.CLASSES, f"its rows are not the classes of {paths.MODEL}")
    return figures


def _metrics(path: Path, kind: type[Kind]) -> Kind:
    try:
        return kind.model_validate_json(_read(path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise _broken(path, f"{key or 'all of it'}: {one_line(first['msg'])}") from None


def _table(path: Path) -> list[Row]:
    name, numbers = TABLES[path]
    try:
        rows = list(csv.DictReader(_read(path).splitlines(), strict=True))
        if not rows:
            raise ValueError("no rows")
        for row in rows:
            if not row[name] or not all(math.isfinite(float(row[key])) for key in numbers):
                raise ValueError("a value is missing")
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        columns = ", ".join(dict.fromkeys((name, *numbers)))
        raise _broken(path, f"not a table of {columns} ({one_line(repr(error))})") from None
    return rows


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path}: not found; run `dvc repro {_made_by(path)}`") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise _broken(path, f"it cannot be read ({reason})") from None


def _made_by(path: Path) -> str:
    if path == paths.TRAIN_METRICS:
        return "train"
    return "tensorize" if path in MADE_BY_TENSORIZE else "evaluate"


def _broken(path: Path, reason: str) -> DataError:
    return DataError(f"{path}: {reason}; run `dvc repro --force {_made_by(path)}` to make it anew")
