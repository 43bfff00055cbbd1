"""A look at the data: metrics/data.json, plots/data.csv and plots/class_balance.csv."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from image_pipeline.tensorizing.duplicates import DuplicateCounter
from image_pipeline.tensors.tensor_files import DatasetInfo

BALANCE_COLUMNS = ("class", "split", "images")
SPLITS = ("train", "validation", "test")
# With fewer images of a class in a split, each one moves the class's score by more than a tenth.
FEW_IMAGES = 10

Table = dict[str, dict[str, int]]  # of the splits: a number by column and split


class DataReport:
    """Counts what is in the splits, in 24 bytes of memory or so per image.

    Args:
        class_names: one per class.
        shape: channels, height and width of an image.
    """

    def __init__(self, class_names: Sequence[str], shape: tuple[int, int, int]) -> None:
        self._names = list(class_names)
        self._shape = shape
        self._images = {split: np.zeros(len(class_names), np.int64) for split in SPLITS}
        self._duplicates = DuplicateCounter(len(SPLITS))

    def add(self, split: str, images: np.ndarray, labels: np.ndarray) -> None:
        """Count in images uint8 `[n, C, H, W]` and labels, unsigned `[n]`, of one of SPLITS."""
        self._images[split] += np.bincount(labels, minlength=len(self._names))
        self._duplicates.add(SPLITS.index(split), images, labels)

    def class_balance(self) -> list[tuple[str, str, int]]:
        """Return a row for each class and split: their names, and the number of images."""
        return [
            (name, split, int(self._images[split][label]))
            for label, name in enumerate(self._names)
            for split in SPLITS
        ]

    def table(self) -> Table:
        """Return the columns of `plots/data.csv`, in which a row is a split.

        `images` and `classes_with_fewer_than_10` count what is in it. Images are the same if they
        are pixel for pixel: `duplicates` are images that came before in the same split, and
        `labels_differ` says how many different ones have several labels there. `in_train` counts
        the images that are also in that split, `different_in_train` each of them once, however
        often it comes, and `labels_differ_in_train` those that do not have one label throughout.
        `leaked` are images that are also in a split before.
        """
        counts, found = self._images, self._duplicates.count()
        few = f"classes_with_fewer_than_{FEW_IMAGES}"
        table: Table = {
            "images": {split: int(images.sum()) for split, images in counts.items()},
            few: {split: int((images < FEW_IMAGES).sum()) for split, images in counts.items()},
            "duplicates": dict(zip(SPLITS, found.copies, strict=True)),
            "labels_differ": dict(zip(SPLITS, found.labels_differ, strict=True)),
            "leaked": {"train": 0, "validation": found.shared[0, 1].images[1], "test": found.seen},
        }
        for other in SPLITS:
            for column in ("in", "different_in", "labels_differ_in"):
                table[f"{column}_{other}"] = {}
        for pair, shared in found.shared.items():
            for here, there, images in zip(pair, reversed(pair), shared.images, strict=True):
                split, other = SPLITS[here], SPLITS[there]
                table[f"in_{other}"][split] = images
                table[f"different_in_{other}"][split] = shared.different
                table[f"labels_differ_in_{other}"][split] = shared.labels_differ
        return table

    def metrics(self, table: Table, description: DatasetInfo, skipped: int) -> dict[str, Any]:
        """Return the values of `metrics/data.json`: single numbers are what DVC compares, no lists.

        Args:
            table: as `table` returns it.
            description: the training split's mean and standard deviation, as the model uses them.
            skipped: images of the data set that could not be read and are in no split.
        """
        few = np.min(list(self._images.values()), axis=0) < FEW_IMAGES
        return {
            "classes_with_few_images": [self._names[label] for label in np.flatnonzero(few)],
            "duplicates": sum(table["duplicates"].values()),
            "images_skipped": skipped,
            "leaked_test_images": table["leaked"]["test"],
            "number_of_classes": len(self._names),
            "pixels": {"mean": description.mean, "standard_deviation": description.std},
            "shape": self._shape,
        }


def table_rows(table: Table) -> list[list[str | int]]:
    """Return the rows of `plots/data.csv`, with nothing where a split meets itself."""
    return [[split, *(column.get(split, "") for column in table.values())] for split in SPLITS]


def leak_in_words(leaked: int, images: int) -> str:
    """Say how many of the test images leak, in a line; nothing if none does."""
    if not leaked:
        return ""
    share = f"{leaked} of {images} test images ({leaked / images:.2%})"
    return f"{share} are also in train or validation"


def leak_warning(table: Table, path: str) -> str:
    """Return a warning in a frame, if the test split leaks; else nothing.

    Args:
        table: as `DataReport.table` returns it.
        path: of the file it is in.
    """
    headline = leak_in_words(table["leaked"]["test"], table["images"]["test"])
    if not headline:
        return ""
    lines = ["WARNING: THE TEST SPLIT LEAKS", "", f"{headline}, pixel for pixel:"]
    for split in ("train", "validation"):
        differ = table[f"labels_differ_in_{split}"]["test"]
        lines.append(
            f"- {table[f'in_{split}']['test']} also in {split}, "
            f"{differ} of their pictures with differing labels"
        )
    lines += [
        "",
        "What the model has seen it need not recognise: its test score flatters.",
        "Take these images out of the training or the test images, then run `dvc repro`.",
        f'All counts are in {path}; README.md, "A look at the data", explains them.',
    ]
    width = max(map(len, lines))
    bar = "!" * (width + 8)
    return "\n".join([bar, *(f"!!  {line:<{width}}  !!" for line in lines), bar])
