"""The binary versions of CIFAR-10 and CIFAR-100, read in place from their tar.gz archives.

A record is an image: one or two bytes of labels, of which the last is the class, then 1,024 bytes
each of red, green and blue, row by row.
"""

import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from image_pipeline.common.errors import DataError
from image_pipeline.downloading.dataset import RawDataset, RawSplit
from image_pipeline.reading.raw_files import REMEDY, images_per_chunk, translate_read_errors

SHAPE = (3, 32, 32)  # of an image
PIXELS = 3 * 32 * 32
MAX_NAMES_BYTES = 1 << 14  # of the file of class names


def read_cifar(
    archive: Path,
    label_bytes: int,
    names_file: str,
    num_classes: int,
    train: Sequence[str],
    test: Sequence[str],
) -> RawDataset:
    """Read one of the two data sets.

    Args:
        archive: the tar.gz file.
        label_bytes: before each image.
        names_file: the file in the archive with a class name on each line.
        num_classes: how many classes it must name.
        train: the files of the training split.
        test: the files of the test split.

    Raises:
        DataError: the archive is missing or damaged, or a file in it is missing or invalid.
    """
    with _open_member(archive, names_file) as (file, size):
        names = tuple(file.read(min(size, MAX_NAMES_BYTES)).decode("ascii", "replace").split())
    if not len(set(names)) == len(names) == num_classes:
        raise DataError(f"{archive}: {names_file} does not name {num_classes} classes; {REMEDY}")

    def split(members: Sequence[str]) -> RawSplit:
        labels = []
        for name, records in _read_records(archive, members, label_bytes):
            labels.append(records[:, label_bytes - 1].copy())
            if (highest := int(labels[-1].max())) >= num_classes:
                raise DataError(
                    f"{archive}: {name}: the label {highest} is not one of 0 to {num_classes - 1}; "
                    f"{REMEDY}"
                )

        def chunks() -> Iterator[np.ndarray]:
            for _, records in _read_records(archive, members, label_bytes):
                yield records[:, label_bytes:].reshape(-1, *SHAPE)

        return RawSplit(SHAPE, np.concatenate(labels), chunks)

    return RawDataset(names, split(train), split(test))


def _read_records(
    archive: Path, members: Sequence[str], label_bytes: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each file's name with records of it, uint8 `[n, label_bytes + PIXELS]`."""
    length = label_bytes + PIXELS
    for name in members:
        with _open_member(archive, name) as (file, size):
            if not size or size % length:
                reason = f"{name} has {size} bytes, not a multiple of {length}"
                raise DataError(f"{archive}: {reason}; {REMEDY}")
            for start in range(0, size, step := length * images_per_chunk(SHAPE)):
                content = file.read(min(step, size - start))
                yield name, np.frombuffer(content, np.uint8).reshape(-1, length)


@contextmanager
def _open_member(path: Path, name: str) -> Iterator[tuple[IO[bytes], int]]:
    """Open a file in an archive; yield it and its size in bytes."""
    with translate_read_errors(path, "tar.gz"), tarfile.open(path, "r:gz") as archive:
        # Not by `getmember`, which decompresses the whole archive to find the last of its name.
        found = (member for member in archive if member.name == name and member.isreg())
        member = next(found, None)
        file = archive.extractfile(member) if member else None
        if member is None or file is None:
            raise DataError(f"{path}: it has no file {name}; {REMEDY}")
        yield file, member.size
