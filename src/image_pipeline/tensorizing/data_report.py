"""The report on the data: metrics/data.json, plots/data.csv and plots/class_balance.csv."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from image_pipeline.tensorizing.duplicates import DuplicateCounter, Table
from image_pipeline.tensors.tensor_files import DatasetInfo

SPLITS = ("train", "validation", "test")
# With fewer images of a class in a split, one of them is more than a tenth of the class's score.
FEW_IMAGES = 10


class DataReport:
    """Counts images, classes and duplicates in the splits, in about 24 bytes of memory an image.

    Args:
        class_names: one per class.
        shape: channels, height and width of an image.
    """

    def __init__(self, class_names: Sequence[str], shape: tuple[int, int, int]) -> None:
        self._names = list(class_names)
        self._shape = shape
        self._images = {split: np.zeros(len(class_names), np.int64) for split in SPLITS}
        self._duplicates = DuplicateCounter(SPLITS)

    def add(self, split: str, images: np.ndarray, labels: np.ndarray) -> None:
        """Count in images uint8 `[n, C, H, W]` and labels, unsigned `[n]`, of one of SPLITS."""
        self._images[split] += np.bincount(labels, minlength=len(self._names))
        self._duplicates.add(split, images, labels)

    def class_balance(self) -> list[tuple[str, str, int]]:
        """Return a row for each class and split: their names, and the number of images."""
        return [
            (name, split, int(self._images[split][label]))
            for label, name in enumerate(self._names)
            for split in SPLITS
        ]

    def table(self) -> Table:
        """Return the columns of `plots/data.csv`, in which a row is a split."""
        counts, few = self._images.items(), f"classes_with_fewer_than_{FEW_IMAGES}"
        return {
            "images": {split: int(images.sum()) for split, images in counts},
            few: {split: int((images < FEW_IMAGES).sum()) for split, images in counts},
            **self._duplicates.count(),
        }

    def metrics(self, table: Table, info: DatasetInfo, skipped: int) -> dict[str, Any]:
        """Return the values of `metrics/data.json`; DVC compares numbers, but not lists.

        Args:
            table: as `table` returns it.
            info: with the training split's mean and standard deviation.
            skipped: unreadable images, which are in no split.
        """
        few = np.min(list(self._images.values()), axis=0) < FEW_IMAGES
        return {
            "classes_with_few_images": [self._names[label] for label in np.flatnonzero(few)],
            "duplicates": sum(table["duplicates"].values()),
            "images_skipped": skipped,
            "leaked_test_images": table["leaked"]["test"],
            "number_of_classes": len(self._names),
            "pixels": {"mean": info.mean, "standard_deviation": info.std},
            "shape": self._shape,
        }


def table_rows(table: Table) -> list[list[str | int]]:
    """Return the rows of `plots/data.csv`; a cell that compares a split with itself is empty."""
    return [[split, *(column.get(split, "") for column in table.values())] for split in SPLITS]


def describe_leak(leaked: int, images: int) -> str:
    """Return how many test images leak, in one line; empty if none does."""
    if not leaked:
        return ""
    share = f"{leaked} of {images} test images ({leaked / images:.2%})"
    return f"{share} are also in train or validation"


def leak_warning(table: Table, path: str) -> str:
    """Return a framed warning if the test split leaks; else an empty string.

    Args:
        table: as `DataReport.table` returns it.
        path: of the CSV file with the table.
    """
    headline = describe_leak(table["leaked"]["test"], table["images"]["test"])
    if not headline:
        return ""
    lines = ["WARNING: THE TEST SPLIT LEAKS", "", f"{headline}, pixel for pixel:"]
    for split in ("train", "validation"):
        differ = table[f"labels_differ_in_{split}"]["test"]
        lines.append(
            f"- {table[f'in_{split}']['test']} also in {split}, "
            f"{differ} distinct ones with differing labels"
        )
    lines += [
        "",
        "The model has seen these images, so its test score is too high.",
        "Remove them from the training or the test images, then run `dvc repro`.",
        f'All counts are in {path}; README.md, "A look at the data", explains them.',
    ]
    width = max(map(len, lines))
    bar = "!" * (width + 8)
    return "\n".join([bar, *(f"!!  {line:<{width}}  !!" for line in lines), bar])
