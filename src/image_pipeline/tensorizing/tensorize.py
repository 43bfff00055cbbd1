"""From a data set's original files to the three splits that the later stages read."""

import math
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from tqdm import tqdm

from image_pipeline.common.files import atomic_group
from image_pipeline.datasets.base import Dataset
from image_pipeline.datasets.splitting import draw
from image_pipeline.serialization import write_csv_rows, write_json
from image_pipeline.tensorizing.data_report import BALANCE_COLUMNS, DataReport, Table, table_rows
from image_pipeline.tensors.tensor_files import DatasetInfo, writing_split


def tensorize(
    dataset: Dataset,
    name: str,
    raw: Path,
    validation_fraction: float,
    seed: int,
    train_path: Path,
    validation_path: Path,
    test_path: Path,
    metrics_path: Path,
    balance_path: Path,
    table_path: Path,
) -> Table:
    """Read a data set from `raw`, write its splits and a report on them; return its table.

    The validation split is drawn from the training split, by class; the test split stays whole.
    The normalisation statistics are the remaining training images' alone. Images pass through in
    chunks; memory grows by at most some 29 bytes an image: 24 that `DuplicateCounter` holds of it,
    its label and whether it is kept back.

    Args:
        dataset: reads the files.
        name: the data set's, for the splits' descriptions.
        raw: the folder that holds the files.
        validation_fraction: share of each class that is kept back, above 0, to 0.5.
        seed: of that draw.
        train_path: of the training split; `validation_path` and `test_path` of the others.
        validation_path: see `train_path`.
        test_path: see `train_path`.
        metrics_path: of what `DataReport.metrics` tells.
        balance_path: of the table of the images of each class.
        table_path: of what `DataReport.table` tells.

    Raises:
        DataError: a file is not what it should be, or a class has too few images to be split.
    """
    train_and_validation, test = dataset.read(raw)
    skipped = train_and_validation.skipped + test.skipped
    labels, shape = train_and_validation.labels, train_and_validation.shape
    fit = train_and_validation.fit
    kept_back = draw(
        labels, dataset.class_names, validation_fraction, seed, "tensorize.validation_fraction"
    )
    sizes = {
        train_path: len(labels) - int(kept_back.sum()),
        validation_path: int(kept_back.sum()),
        test_path: len(test.labels),
    }
    statistics = PixelStatistics(shape[0])
    with (
        atomic_group(),
        ExitStack() as files,
        tqdm(total=sum(sizes.values()), desc="tensorize", unit="image", unit_scale=True) as bar,
    ):
        into_train, into_validation, into_test = (
            files.enter_context(writing_split(path, size, shape, name, dataset.class_names))
            for path, size in sizes.items()
        )
        report = DataReport(dataset.class_names, shape)
        start = 0
        for images in train_and_validation.chunks():
            part = slice(start, start := start + len(images))
            learnt = ~kept_back[part]
            to_learn, to_validate = images[learnt], images[~learnt]
            statistics.add(to_learn)
            into_train.append(to_learn, labels[part][learnt])
            into_validation.append(to_validate, labels[part][~learnt])
            report.add("train", to_learn, labels[part][learnt])
            report.add("validation", to_validate, labels[part][~learnt])
            bar.update(len(images))
        start = 0
        for images in test.chunks():
            part = slice(start, start := start + len(images))
            into_test.append(images, test.labels[part])
            report.add("test", images, test.labels[part])
            bar.update(len(images))
        description = DatasetInfo(
            name, dataset.class_names, statistics.mean(), statistics.deviation(), fit
        )
        for writer in (into_train, into_validation, into_test):
            writer.finish(description)
        table = report.table()
        write_csv_rows(balance_path, BALANCE_COLUMNS, report.class_balance())
        write_csv_rows(table_path, ["split", *table], table_rows(table))
        write_json(metrics_path, report.metrics(table, description, skipped))
    return table


class PixelStatistics:
    """Mean and standard deviation per channel of uint8 images, as pixels of 0 to 1.

    Computed from the exact histogram of the 256 values, so the result has no rounding that could
    differ from machine to machine.
    """

    def __init__(self, channels: int) -> None:
        self._counts = np.zeros((channels, 256), np.int64)

    def add(self, images: np.ndarray) -> None:
        """Count the pixels of uint8 images `[N, C, H, W]`."""
        for channel, counts in enumerate(self._counts):
            counts += np.bincount(images[:, channel].ravel(), minlength=256)

    def mean(self) -> tuple[float, ...]:
        """Return the mean of each channel."""
        return tuple(
            round(first / total / 255, 8) for total, first, _ in map(self._moments, self._counts)
        )

    def deviation(self) -> tuple[float, ...]:
        """Return the standard deviation of each channel; 1 for a channel of one single value."""
        deviations = []
        for total, first, second in map(self._moments, self._counts):
            variance = (total * second - first * first) / (total * total)  # exact up to here
            deviations.append(round(math.sqrt(variance) / 255, 8) or 1.0)
        return tuple(deviations)

    @staticmethod
    def _moments(counts: np.ndarray) -> tuple[int, int, int]:
        """Return the number of pixels, their sum and the sum of their squares, in whole numbers."""
        values = list(enumerate(counts.tolist()))
        return (
            sum(count for _, count in values),
            sum(value * count for value, count in values),
            sum(value * value * count for value, count in values),
        )
