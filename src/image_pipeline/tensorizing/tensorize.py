"""A data set to the three splits that the later stages read."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from tqdm import tqdm

from image_pipeline.common.files import atomic_group
from image_pipeline.downloading.dataset import RawDataset
from image_pipeline.reading.splitting import stratified_split
from image_pipeline.serialization import write_csv_rows, write_json
from image_pipeline.tensorizing.data_report import SPLITS, DataReport, table_rows
from image_pipeline.tensorizing.duplicates import Table
from image_pipeline.tensors.tensor_files import DatasetInfo, open_split_writer


def tensorize(
    dataset: RawDataset,
    name: str,
    validation_fraction: float,
    seed: int,
    split_paths: Sequence[Path],
    metrics_path: Path,
    balance_path: Path,
    table_path: Path,
) -> Table:
    """Write a data set's splits and a report on them; return the report's table.

    The validation split is taken from the training split, stratified by class; the test split is
    left as it is. The normalization statistics are those of the remaining training images. Images
    are streamed in chunks; memory grows by about 29 bytes an image: 24 in `DuplicateCounter`, its
    label, and whether it is held out.

    Args:
        dataset: the data set.
        name: of the data set, for the splits' metadata.
        validation_fraction: share of each class that is held out, above 0, to 0.5.
        seed: of the validation split.
        split_paths: of the files of the training, validation and test split.
        metrics_path: of the JSON file with `DataReport.metrics`.
        balance_path: of the CSV file with the number of images per class.
        table_path: of the CSV file with `DataReport.table`.

    Raises:
        DataError: a file is invalid, or a class has too few images to be split.
    """
    labels, shape = dataset.train.labels, dataset.train.shape
    held_out = stratified_split(
        labels, dataset.class_names, validation_fraction, seed, "tensorize.validation_fraction"
    )
    num_validation = int(held_out.sum())
    sizes = len(labels) - num_validation, num_validation, len(dataset.test.labels)
    statistics = PixelStatistics(shape[0])
    report = DataReport(dataset.class_names, shape)
    with (
        atomic_group(),
        ExitStack() as files,
        tqdm(total=sum(sizes), desc="tensorize", unit="image", unit_scale=True) as bar,
    ):
        writers = {
            split: files.enter_context(
                open_split_writer(
                    path,
                    size,
                    shape,
                    name,
                    dataset.class_names,
                    dataset.bits,
                    dataset.crop_fraction,
                )
            )
            for split, path, size in zip(SPLITS, split_paths, sizes, strict=True)
        }

        def add(split: str, images: np.ndarray, labels: np.ndarray) -> None:
            writers[split].append(images, labels)
            report.add(split, images, labels)
            bar.update(len(images))

        start = 0
        for images in dataset.train.chunks():
            part = slice(start, start := start + len(images))
            chosen = held_out[part]
            train_images = images[~chosen]
            statistics.add(train_images)
            add("train", train_images, labels[part][~chosen])
            add("validation", images[chosen], labels[part][chosen])
        start = 0
        for images in dataset.test.chunks():
            add("test", images, dataset.test.labels[start : (start := start + len(images))])
        info = DatasetInfo(
            name,
            dataset.class_names,
            *statistics.mean_and_std(),
            dataset.fit,
            dataset.bits,
            dataset.crop_fraction,
        )
        for writer in writers.values():
            writer.finish(info)
        table = report.table()
        write_csv_rows(balance_path, ["class", "split", "images"], report.class_balance())
        write_csv_rows(table_path, ["split", *table], table_rows(table))
        write_json(metrics_path, report.metrics(table, info, dataset.skipped))
    return table


class PixelStatistics:
    """Mean and standard deviation per channel of uint8 images, in units of 255.

    Computed from the exact histogram of the 256 values, so no rounding can differ from machine to
    machine.
    """

    def __init__(self, channels: int) -> None:
        self._counts = np.zeros((channels, 256), np.int64)

    def add(self, images: np.ndarray) -> None:
        """Count the pixels of uint8 images `[N, C, H, W]`."""
        for channel, counts in enumerate(self._counts):
            counts += np.bincount(images[:, channel].ravel(), minlength=256)

    def mean_and_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return each channel's mean and standard deviation; 1 if it is constant."""
        powers = np.arange(256)[:, np.newaxis] ** np.arange(3)
        means, deviations = [], []
        # Integers: the number of pixels, their sum and the sum of their squares.
        for total, first, second in (self._counts @ powers).tolist():
            variance = (total * second - first * first) / (total * total)  # exact up to here
            means.append(round(first / total / 255, 8))
            deviations.append(round(math.sqrt(variance) / 255, 8) or 1.0)
        return tuple(means), tuple(deviations)
