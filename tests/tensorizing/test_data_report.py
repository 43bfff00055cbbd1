"""The report on the data, on splits whose duplicates and leaks are known."""

import numpy as np

from image_pipeline.tensorizing.data_report import (
    DataReport,
    describe_leak,
    leak_warning,
    table_rows,
)
from image_pipeline.tensors.tensor_files import DatasetInfo
from project import ROOT

NAMES = ("cat", "dog, wet")
SHAPE = (3, 1, 2)
DATA = DatasetInfo("toy", NAMES, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
# Of each split: the first pixel and the label of each image.
CLEAN = {
    "train": [*((n, 0) for n in range(12)), (20, 1), (20, 1), (21, 1)],
    "validation": [(30, 0), (31, 1)],
    "test": [(40, 0), (41, 1), (41, 0)],
}


def report(splits: dict[str, list[tuple[int, int]]]) -> DataReport:
    made = DataReport(NAMES, SHAPE)
    for split, content in splits.items():
        images = np.zeros((len(content), *SHAPE), np.uint8)
        images[:, 0, 0, 0] = [pixel for pixel, _ in content]
        made.add(split, images, np.array([label for _, label in content], np.uint8))
    return made


def test_a_clean_data_set() -> None:
    made = report(CLEAN)
    table = made.table()
    assert list(table)[:3] == ["images", "classes_with_fewer_than_10", "duplicates"]
    assert table_rows(table) == [
        ["train", 15, 1, 1, 0, 0, "", "", "", 0, 0, 0, 0, 0, 0],
        ["validation", 2, 2, 0, 0, 0, 0, 0, 0, "", "", "", 0, 0, 0],
        ["test", 3, 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, "", "", ""],
    ]
    assert made.metrics(table, DATA, skipped=7) == {
        "classes_with_few_images": ["cat", "dog, wet"],
        "duplicates": 2,
        "images_skipped": 7,
        "leaked_test_images": 0,
        "number_of_classes": 2,
        "pixels": {"mean": (0.1, 0.2, 0.3), "standard_deviation": (0.4, 0.5, 0.6)},
        "shape": SHAPE,
    }
    assert leak_warning(table, "a.csv") == describe_leak(0, 3) == ""


def test_a_class_has_few_images_if_one_split_has_few_of_it() -> None:
    plenty = [(n, 0) for n in range(10)]
    made = report({"train": plenty + [(n, 1) for n in range(9)], "validation": plenty})
    table = made.table()
    assert table["classes_with_fewer_than_10"] == {"train": 1, "validation": 1, "test": 2}
    made.add("test", np.zeros((10, *SHAPE), np.uint8), np.zeros(10, np.uint8))
    assert made.metrics(table, DATA, 0)["classes_with_few_images"] == ["dog, wet"]


def test_a_leak_is_counted_and_told() -> None:
    made = report({**CLEAN, "test": [*CLEAN["test"], (20, 0), (20, 0), (31, 1)]})
    leaky = made.table()
    assert leaky["leaked"] == {"train": 0, "validation": 0, "test": 3}
    assert made.metrics(leaky, DATA, 0)["leaked_test_images"] == 3
    assert table_rows(leaky)[2] == ["test", 6, 2, 2, 1, 3, 2, 1, 1, 1, 1, 0, "", "", ""]
    assert describe_leak(3, 6) == "3 of 6 test images (50.00%) are also in train or validation"
    lines = leak_warning(leaky, "plots/data.csv").splitlines()
    assert len(lines) > 8
    assert len({len(line) for line in lines}) == 1  # a frame
    assert set(lines[0]) == set(lines[-1]) == {"!"}
    text = "\n".join(line.strip("! ") for line in lines)
    assert "WARNING: THE TEST SPLIT LEAKS" in text
    assert "3 of 6 test images (50.00%) are also in train or validation" in text
    assert "2 also in train, 1 distinct ones with differing labels" in text
    assert "1 also in validation, 0 distinct ones with differing labels" in text
    assert "plots/data.csv" in text
    heading = "A look at the data"
    assert heading in text
    assert f"## {heading}\n" in (ROOT / "README.md").read_text()


def test_class_balance_keeps_the_order_of_the_classes() -> None:
    assert report(CLEAN).class_balance() == [
        ("cat", "train", 12),
        ("cat", "validation", 1),
        ("cat", "test", 2),
        ("dog, wet", "train", 3),
        ("dog, wet", "validation", 1),
        ("dog, wet", "test", 1),
    ]
