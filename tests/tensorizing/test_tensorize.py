"""The split and the statistics, against values worked out by hand."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from image_pipeline.datasets import digits
from image_pipeline.tensorizing.tensorize import PixelStatistics
from image_pipeline.tensors.tensor_files import read_split
from published import PARAMS, tensorize_into, whole


def test_statistics_by_hand() -> None:
    # Channel 0: 0, 0, 255, 255: mean 1/2, deviation 1/2. Channel 1: 51, 51, 51, 255: mean 0.4,
    # deviation sqrt((3 * 0.2^2 + 0.6^2) / 4) = sqrt(0.12). Channel 2 is constant.
    images = np.array(
        [[[[0, 0]], [[51, 51]], [[102, 102]]], [[[255, 255]], [[51, 255]], [[102, 102]]]], np.uint8
    )
    statistics = PixelStatistics(3)
    statistics.add(images[:1])
    statistics.add(images[1:])
    mean, std = statistics.mean_and_std()
    assert mean == (0.5, 0.4, 0.4)
    assert std == (0.5, round(0.12**0.5, 8), 1.0)


def test_tensorize_leaves_the_test_split_whole(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    digits.fetch(raw, None, PARAMS)
    dataset = digits.read(raw, PARAMS)
    paths, table = tensorize_into(tmp_path, dataset, 0.1)
    assert table["images"] == {"train": 1292, "validation": 145, "test": 360}
    with (tmp_path / "data.csv").open(newline="") as file:
        written = {row["split"]: row for row in csv.DictReader(file)}
    assert list(written) == ["train", "validation", "test"]
    for column, counts in table.items():
        for split, row in written.items():
            assert row[column] == str(counts.get(split, ""))
    metrics = json.loads((tmp_path / "data.json").read_text())
    assert metrics["shape"] == [1, 28, 28]
    assert metrics["number_of_classes"] == 10
    with (tmp_path / "class_balance.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0].keys() == {"class", "split", "images"}
    assert sum(int(row["images"]) for row in rows) == 1797

    train, validation, test = (read_split(path) for path in paths)
    assert np.array_equal(test.images.numpy(), whole(dataset.test))
    assert np.array_equal(test.labels.numpy(), dataset.test.labels)

    def images_of(*arrays: np.ndarray) -> list[bytes]:
        return sorted(image.tobytes() for array in arrays for image in array)

    together = images_of(train.images.numpy(), validation.images.numpy())
    assert together == images_of(whole(dataset.train))

    # The statistics are the training images' alone, and the same in every file.
    pixels = train.images.numpy() / 255
    assert train.info.mean == pytest.approx([pixels.mean()])
    assert train.info.std == pytest.approx([pixels.std()])
    assert train.info == validation.info == test.info
    assert train.info.class_names == tuple("0123456789")
