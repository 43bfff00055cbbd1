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


class CifarArchive:
    """One of the two archives.

    Args:
        path: of the archive.
        folder: the folder in it that holds the files.
        label_bytes: before each image.
    """

    def __init__(self, path: Path, folder: str, label_bytes: int) -> None:
        self._path = path
        self._folder = folder
        self._label_bytes = label_bytes

    def read(
        self, names_file: str, num_classes: int, train: Sequence[str], test: Sequence[str]
    ) -> RawDataset:
        """Read the data set.

        Args:
            names_file: the file with a class name on each line.
            num_classes: how many classes it must name.
            train: the files of the training split.
            test: the files of the test split.

        Raises:
            DataError: the archive is missing or damaged, or a file in it is missing or invalid.
        """
        with self._open(names_file) as (file, size):
            text = file.read(min(size, MAX_NAMES_BYTES)).decode("ascii", "replace")
        names = tuple(text.split())
        if not len(set(names)) == len(names) == num_classes:
            raise DataError(
                f"{self._path}: {names_file} does not name {num_classes} classes; {REMEDY}"
            )
        return RawDataset(names, self._split(train, num_classes), self._split(test, num_classes))

    def _split(self, files: Sequence[str], num_classes: int) -> RawSplit:
        labels = []
        for name, records in self._records(files):
            labels.append(records[:, self._label_bytes - 1].copy())
            if (highest := int(labels[-1].max())) >= num_classes:
                raise DataError(
                    f"{self._path}: {name}: the label {highest} is not one of 0 to "
                    f"{num_classes - 1}; {REMEDY}"
                )

        def chunks() -> Iterator[np.ndarray]:
            for _, records in self._records(files):
                yield records[:, self._label_bytes :].reshape(-1, *SHAPE)

        return RawSplit(SHAPE, np.concatenate(labels), chunks)

    def _records(self, files: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
        """Yield each file's name with records of it, uint8 `[n, label_bytes + PIXELS]`."""
        length = self._label_bytes + PIXELS
        for name in files:
            with self._open(name) as (file, size):
                if not size or size % length:
                    raise DataError(
                        f"{self._path}: {name} has {size} bytes, not a multiple of {length}; "
                        f"{REMEDY}"
                    )
                for start in range(0, size, step := length * images_per_chunk(SHAPE)):
                    content = file.read(min(step, size - start))
                    yield name, np.frombuffer(content, np.uint8).reshape(-1, length)

    @contextmanager
    def _open(self, name: str) -> Iterator[tuple[IO[bytes], int]]:
        """Open a file in the archive; yield it and its size in bytes."""
        member_name = f"{self._folder}/{name}"
        with (
            translate_read_errors(self._path, "tar.gz"),
            tarfile.open(self._path, "r:gz") as archive,
        ):
            # Not by `getmember`, which decompresses the whole archive to find the last of its name.
            found = (member for member in archive if member.name == member_name)
            member = next((member for member in found if member.isreg()), None)
            file = archive.extractfile(member) if member else None
            if member is None or file is None:
                raise DataError(f"{self._path}: it has no file {member_name}; {REMEDY}")
            yield file, member.size
