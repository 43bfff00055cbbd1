"""A look at the data: what metrics/data.json and plots/class_balance.csv say of the splits."""

from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from image_pipeline.tensorizing.duplicates import DuplicateCounter, Duplicates
from image_pipeline.tensors.tensor_files import Description

BALANCE_COLUMNS = ("class", "split", "images")
SPLITS = ("train", "validation", "test")
# With fewer images of a class in a split, each one moves the class's score by more than a tenth.
FEW_IMAGES = 10
CHANNELS = {1: ("grey",), 3: ("red", "green", "blue")}


class DataReport:
    """Counts what is in the splits; memory does not grow with the images.

    Args:
        file: empty, to write and to read; see `DuplicateCounter`.
        class_names: one per class.
        shape: channels, height and width of an image.
    """

    def __init__(
        self, file: BinaryIO, class_names: Sequence[str], shape: tuple[int, int, int]
    ) -> None:
        self._names = list(class_names)
        self._shape = shape
        self._images = {split: np.zeros(len(class_names), np.int64) for split in SPLITS}
        self._duplicates = DuplicateCounter(file, len(SPLITS))

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

    def metrics(self, description: Description, skipped: int) -> dict[str, Any]:
        """Return the values of `metrics/data.json`.

        Args:
            description: the training split's mean and standard deviation, as the model uses them.
            skipped: images of the data set that could not be read and are in no split.
        """
        duplicates = self._duplicates.count()
        channels, height, width = self._shape
        colours = CHANNELS.get(channels, [f"channel {number}" for number in range(channels)])
        few = {split: images < FEW_IMAGES for split, images in self._images.items()}
        any_few = np.logical_or.reduce(list(few.values()))
        return {
            "classes": {
                name: {split: int(images[label]) for split, images in self._images.items()}
                for label, name in enumerate(self._names)
            },
            "classes_with_few_images": {
                "fewer_than": FEW_IMAGES,
                "names": [
                    name for name, is_few in zip(self._names, any_few, strict=True) if is_few
                ],
                **{split: int(is_few.sum()) for split, is_few in few.items()},
            },
            "images": {split: int(images.sum()) for split, images in self._images.items()},
            "images_skipped": skipped,
            "number_of_classes": len(self._names),
            "pixels": {
                "mean": dict(zip(colours, description.mean, strict=True)),
                "standard_deviation": dict(zip(colours, description.std, strict=True)),
            },
            "shape": {"channels": channels, "height": height, "width": width},
            **_identical(duplicates),
        }


def _identical(duplicates: Duplicates) -> dict[str, Any]:
    within = zip(SPLITS, duplicates.copies, duplicates.labels_differ, strict=True)
    across = {}
    for (first, second), shared in duplicates.shared.items():
        across[f"{SPLITS[first]}_and_{SPLITS[second]}"] = {
            "different_images": shared.different,
            f"images_of_{SPLITS[first]}": shared.images[0],
            f"images_of_{SPLITS[second]}": shared.images[1],
            "labels_differ": shared.labels_differ,
        }
    return {
        "duplicates_within": {
            split: {"images": copies, "labels_differ": differ} for split, copies, differ in within
        },
        "duplicates_across": across,
        "leaked_test_images": duplicates.seen,
    }


def leak_in_words(metrics: Mapping[str, Any]) -> str:
    """Say how much of the test split leaks, in a line; nothing if nothing does.

    Args:
        metrics: as `DataReport.metrics` returns them.
    """
    leaked, count = metrics["leaked_test_images"], metrics["images"]["test"]
    if not leaked:
        return ""
    return f"{leaked} of {count} test images ({leaked / count:.2%}) are also in train or validation"


def leak_warning(metrics: Mapping[str, Any], path: str) -> str:
    """Return a warning in a frame, if the test split leaks; else nothing.

    Args:
        metrics: as `DataReport.metrics` returns them.
        path: of the file they are in.
    """
    headline = leak_in_words(metrics)
    if not headline:
        return ""
    lines = ["WARNING: THE TEST SPLIT LEAKS", "", f"{headline}, pixel for pixel:"]
    for split in ("train", "validation"):
        shared = metrics["duplicates_across"][f"{split}_and_test"]
        lines.append(
            f"- {shared['images_of_test']} also in {split}, "
            f"{shared['labels_differ']} of their pictures with differing labels"
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
