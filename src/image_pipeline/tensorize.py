"""From a data set's original files to the three splits that the later stages read."""

import math
from pathlib import Path

import numpy as np
from sklearn.model_selection import train_test_split

from image_pipeline.datasets import DATASETS
from image_pipeline.datasets.base import RawSplit
from image_pipeline.errors import DataError
from image_pipeline.files import together
from image_pipeline.tensor_files import Description, write_split


def tensorize(
    dataset: str,
    raw: Path,
    validation_fraction: float,
    seed: int,
    train_path: Path,
    validation_path: Path,
    test_path: Path,
) -> dict[str, int]:
    """Read `dataset` from `raw` and write its splits; return the number of images in each.

    The validation split is drawn from the training split, by class; the test split stays whole.
    The normalisation statistics are the remaining training images' alone.

    Raises:
        DataError: a file is not what it should be, or a class has too few images to be split.
    """
    source = DATASETS[dataset]
    train_and_validation, test = source.read(raw)
    train, validation = split_validation(train_and_validation, validation_fraction, seed)
    mean, std = pixel_statistics(train.images)
    description = Description(dataset, source.class_names, mean, std)
    counts = {}
    with together():
        for path, split in ((train_path, train), (validation_path, validation), (test_path, test)):
            write_split(path, split.images, split.labels, description)
            counts[path.stem] = len(split.labels)
    return counts


def split_validation(
    split: RawSplit, validation_fraction: float, seed: int
) -> tuple[RawSplit, RawSplit]:
    """Split by class into training and validation, each in the original order.

    Raises:
        DataError: a class, or the validation split, would be too small.
    """
    try:
        train, validation = train_test_split(
            np.arange(len(split.labels)),
            test_size=validation_fraction,
            random_state=seed,
            stratify=split.labels,
        )
    except ValueError as error:
        raise DataError(
            f"tensorize.validation_fraction: {validation_fraction} cannot be drawn from "
            f"{len(split.labels)} images by class: {error}"
        ) from None
    train, validation = np.sort(train), np.sort(validation)
    return (
        RawSplit(split.images[train], split.labels[train]),
        RawSplit(split.images[validation], split.labels[validation]),
    )


def pixel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 images `[N, C, H, W]`, as pixels of 0 to 1.

    Computed from the exact histogram of the 256 values, so the result has no rounding that could
    differ from machine to machine. A channel of one single value gets a deviation of 1.
    """
    means, stds = [], []
    for channel in range(images.shape[1]):
        counts = np.bincount(images[:, channel].ravel(), minlength=256).tolist()
        total = sum(counts)
        first = sum(value * count for value, count in enumerate(counts))
        second = sum(value * value * count for value, count in enumerate(counts))
        variance = (total * second - first * first) / (total * total)  # exact until the division
        means.append(round(first / total / 255, 8))
        stds.append(round(math.sqrt(variance) / 255, 8) or 1.0)
    return tuple(means), tuple(stds)
