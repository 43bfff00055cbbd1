"""The report on the data, on splits whose duplicates and leaks are known."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from image_pipeline.common.files import scratch
from image_pipeline.tensorizing.data_report import DataReport, leak_in_words, leak_warning
from image_pipeline.tensors.tensor_files import Description

NAMES = ("cat", "dog, wet")
SHAPE = (3, 1, 2)
DATA = Description("toy", NAMES, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
# Of each split: the first pixel and the label of each image.
CLEAN = {
    "train": [*((n, 0) for n in range(12)), (20, 1), (20, 1), (21, 1)],
    "validation": [(30, 0), (31, 1)],
    "test": [(40, 0), (41, 1), (41, 0)],
}


def report(splits: dict[str, list[tuple[int, int]]]) -> DataReport:
    made = DataReport(io.BytesIO(), NAMES, SHAPE)
    for split, content in splits.items():
        images = np.zeros((len(content), *SHAPE), np.uint8)
        images[:, 0, 0, 0] = [pixel for pixel, _ in content]
        made.add(split, images, np.array([label for _, label in content], np.uint8))
    return made


def metrics(splits: dict[str, list[tuple[int, int]]], skipped: int = 0) -> dict[str, Any]:
    return report(splits).metrics(DATA, skipped)


def test_a_clean_data_set() -> None:
    nothing = {"different_images": 0, "labels_differ": 0}
    assert metrics(CLEAN, skipped=7) == {
        "classes": {
            "cat": {"train": 12, "validation": 1, "test": 2},
            "dog, wet": {"train": 3, "validation": 1, "test": 1},
        },
        "classes_with_few_images": {
            "fewer_than": 10,
            "names": ["cat", "dog, wet"],
            "train": 1,
            "validation": 2,
            "test": 2,
        },
        "duplicates_within": {
            "train": {"images": 1, "labels_differ": 0},
            "validation": {"images": 0, "labels_differ": 0},
            "test": {"images": 1, "labels_differ": 1},
        },
        "duplicates_across": {
            "train_and_validation": {**nothing, "images_of_train": 0, "images_of_validation": 0},
            "train_and_test": {**nothing, "images_of_train": 0, "images_of_test": 0},
            "validation_and_test": {**nothing, "images_of_validation": 0, "images_of_test": 0},
        },
        "images": {"train": 15, "validation": 2, "test": 3},
        "images_skipped": 7,
        "leaked_test_images": 0,
        "number_of_classes": 2,
        "pixels": {
            "mean": {"red": 0.1, "green": 0.2, "blue": 0.3},
            "standard_deviation": {"red": 0.4, "green": 0.5, "blue": 0.6},
        },
        "shape": {"channels": 3, "height": 1, "width": 2},
    }
    assert leak_in_words(metrics(CLEAN)) == leak_warning(metrics(CLEAN), "a.json") == ""


def test_a_leak_is_counted_and_told() -> None:
    leaky = metrics({**CLEAN, "test": [*CLEAN["test"], (20, 0), (20, 0), (31, 1)]})
    assert leaky["leaked_test_images"] == 3
    assert leaky["duplicates_across"]["train_and_test"] == {
        "different_images": 1,
        "images_of_train": 2,
        "images_of_test": 2,
        "labels_differ": 1,
    }
    assert leaky["duplicates_across"]["validation_and_test"]["images_of_test"] == 1
    assert leaky["duplicates_across"]["train_and_validation"]["different_images"] == 0
    assert leak_in_words(leaky) == "3 of 6 test images (50.00%) are also in train or validation"
    lines = leak_warning(leaky, "metrics/data.json").splitlines()
    assert len(lines) > 8
    assert len({len(line) for line in lines}) == 1  # a frame
    assert set(lines[0]) == set(lines[-1]) == {"!"}
    text = "\n".join(line.strip("! ") for line in lines)
    assert "WARNING: THE TEST SPLIT LEAKS" in text
    assert "3 of 6 test images (50.00%) are also in train or validation" in text
    assert "2 also in train, 1 of their pictures with differing labels" in text
    assert "1 also in validation, 0 of their pictures with differing labels" in text
    assert "metrics/data.json" in text
    heading = "A look at the data"
    assert heading in text
    assert f"## {heading}\n" in (Path(__file__).parent.parent / "README.md").read_text()


def test_class_balance_keeps_the_order_of_the_classes() -> None:
    assert report(CLEAN).class_balance() == [
        ("cat", "train", 12),
        ("cat", "validation", 1),
        ("cat", "test", 2),
        ("dog, wet", "train", 3),
        ("dog, wet", "validation", 1),
        ("dog, wet", "test", 1),
    ]


def test_the_digests_never_stand_in_the_folder(tmp_path: Path) -> None:
    with scratch(tmp_path / "tensors" / "digests") as file:
        made = DataReport(file, NAMES, SHAPE)
        made.add("test", np.zeros((3, *SHAPE), np.uint8), np.zeros(3, np.uint8))
        assert made.metrics(DATA, 0)["duplicates_within"]["test"]["images"] == 2
        seen = list((tmp_path / "tensors").iterdir())
        assert all(path.name.endswith(".partial") for path in seen)  # none at all on Linux
    assert list((tmp_path / "tensors").iterdir()) == []
