"""MNIST and the data sets in its format: each split has a file of images and a file of labels."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from image_pipeline.common.errors import DataError
from image_pipeline.downloading.dataset import RawDataset, RawSplit
from image_pipeline.reading.idx import INT32, UINT8, ZipMember, iterate_idx, read_shape
from image_pipeline.reading.raw_files import REMEDY, images_per_chunk

SHAPE = (28, 28)  # of an image
LABELS_PER_CHUNK = 1 << 16


def read_mnist_files(folder: Path, class_names: tuple[str, ...]) -> RawDataset:
    """Read a data set whose four files have MNIST's names.

    Raises:
        DataError: see `read_split`.
    """
    train, test = (
        read_split(
            folder / f"{prefix}-images-idx3-ubyte.gz",
            folder / f"{prefix}-labels-idx1-ubyte.gz",
            len(class_names),
        )
        for prefix in ("train", "t10k")
    )
    return RawDataset(class_names, train, test)


def read_split(
    images: Path | ZipMember,
    labels: Path | ZipMember,
    num_classes: int,
    *,
    first_label: int = 0,
    label_columns: int = 0,
    transposed: bool = False,
) -> RawSplit:
    """Read a split from its two IDX files.

    Args:
        images: uint8 `[N, 28, 28]`.
        labels: uint8 `[N]`; or, with `label_columns`, int32 `[N, label_columns]`, of which the
            first column is the class.
        num_classes: how many classes there are.
        first_label: the first class's number in the file; 0 in the split.
        label_columns: see `labels`.
        transposed: whether the file holds each image transposed.

    Raises:
        DataError: a file is missing or damaged, or the two do not match.
    """
    count, *size = read_shape(images, rank=3)
    if tuple(size) != SHAPE or not count:
        raise DataError(
            f"{images}: {count} images of {tuple(size)} pixels, expected at least one of {SHAPE}; "
            f"{REMEDY}"
        )
    rank, dtype = (2, INT32) if label_columns else (1, UINT8)
    num_labels, *columns = read_shape(labels, rank, dtype)
    if num_labels != count:
        raise DataError(f"{labels}: {num_labels} labels for {count} images; {REMEDY}")
    if columns not in ([], [label_columns]):
        raise DataError(f"{labels}: {columns[0]} columns, expected {label_columns}; {REMEDY}")
    last_label = first_label + num_classes - 1
    classes = np.empty(count, np.uint8)
    start = 0
    for part in iterate_idx(labels, rank, LABELS_PER_CHUNK, dtype):
        values = part[:, 0] if label_columns else part
        for label in (values.min(), values.max()):
            if not first_label <= label <= last_label:
                raise DataError(
                    f"{labels}: the label {label} is not one of {first_label} to {last_label}; "
                    f"{REMEDY}"
                )
        classes[start : (start := start + len(values))] = values - first_label

    def chunks() -> Iterator[np.ndarray]:
        for part in iterate_idx(images, rank=3, rows=images_per_chunk(SHAPE)):
            upright = part.transpose(0, 2, 1) if transposed else part
            yield upright[:, np.newaxis]

    return RawSplit((1, *SHAPE), classes, chunks)
