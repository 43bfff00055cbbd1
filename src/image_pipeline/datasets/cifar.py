"""CIFAR-10 and CIFAR-100: photographs of 10 and of 100 classes, 32 x 32 pixels, in colour.

In their binary versions, which are plain records, where the others are pickles, which run code when
they are read. An image is 1,024 bytes each of red, green and blue, row by row, after its label: one
byte, or two, of which the second is the finer one. The archives are read as they are.

Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009). torchvision
knows the address and the checksums of the pickles only; the SHA-256s and sizes of the binary
versions are those in TensorFlow Datasets.
"""

import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from image_pipeline.common.errors import DataError
from image_pipeline.datasets.base import REMEDY, RawSplit, images_per_chunk, reading
from image_pipeline.datasets.download import RemoteFile, fetch_files

SHAPE = (3, 32, 32)  # of an image
PIXELS = 3 * 32 * 32
MAX_NAMES = 1 << 14  # bytes of the file that has the classes' names


class Cifar:
    """One of the two.

    Args:
        archive: what it is called and must hash to.
        folder: in the archive.
        names_file: there, with a class on each line.
        classes: how many these are.
        files: there, of the training and of the test images.
        label_bytes: before each image; the last is the class.
    """

    def __init__(
        self,
        archive: RemoteFile,
        folder: str,
        names_file: str,
        classes: int,
        files: tuple[Sequence[str], Sequence[str]],
        label_bytes: int,
    ) -> None:
        self._archive = archive
        self._folder = folder
        self._names_file = names_file
        self._classes = classes
        self._files = files
        self._label_bytes = label_bytes
        self.class_names: tuple[str, ...] = ()

    def fetch(self, folder: Path, mirror: str | None) -> None:
        """See `Dataset.fetch`."""
        from torchvision.datasets import CIFAR10

        fetch_files([self._archive], [CIFAR10.url.rsplit("/", 1)[0]], folder, mirror)

    def read(self, folder: Path) -> tuple[RawSplit, RawSplit]:
        """See `Dataset.read`."""
        path = folder / self._archive.name
        with _opened(path, self._folder, self._names_file) as (file, size):
            text = file.read(min(size, MAX_NAMES)).decode("ascii", "replace")
        self.class_names = tuple(text.split())
        if len(set(self.class_names)) != self._classes:
            raise DataError(f"{path}: {self._names_file} has other classes; {REMEDY}")
        train, test = (self._split(path, files) for files in self._files)
        return train, test

    def _split(self, path: Path, files: Sequence[str]) -> RawSplit:
        labels = [
            records[:, self._label_bytes - 1].copy() for records in self._records(path, files)
        ]

        def chunks() -> Iterator[np.ndarray]:
            for records in self._records(path, files):
                yield records[:, self._label_bytes :].reshape(-1, *SHAPE)

        return RawSplit(SHAPE, np.concatenate(labels), chunks)

    def _records(self, path: Path, files: Sequence[str]) -> Iterator[np.ndarray]:
        """Yield the records of the files, uint8 `[n, label_bytes + PIXELS]`, some at a time."""
        length = self._label_bytes + PIXELS
        for name in files:
            with _opened(path, self._folder, name) as (file, size):
                if not size or size % length:
                    raise DataError(
                        f"{path}: {name} has {size} bytes, which are no records of {length}; "
                        f"{REMEDY}"
                    )
                for start in range(0, size, step := length * images_per_chunk(SHAPE)):
                    content = file.read(min(step, size - start))
                    records = np.frombuffer(content, np.uint8).reshape(-1, length)
                    highest = int(records[:, self._label_bytes - 1].max())
                    if highest >= len(self.class_names):
                        raise DataError(
                            f"{path}: {name}: the label {highest} is not one of 0 to "
                            f"{len(self.class_names) - 1}; {REMEDY}"
                        )
                    yield records


@contextmanager
def _opened(path: Path, folder: str, name: str) -> Iterator[tuple[IO[bytes], int]]:
    """Open a file in the archive; yield it and its size.

    Raises:
        DataError: there is no archive, it is torn, or has no such file.
    """
    with reading(path, "tar.gz"), tarfile.open(path, "r:gz") as archive:
        # Not by `getmember`, which would unpack the whole archive to find the last of its name.
        found = (member for member in archive if member.name == f"{folder}/{name}")
        member = next((member for member in found if member.isreg()), None)
        file = archive.extractfile(member) if member else None
        if member is None or file is None:
            raise DataError(f"{path}: it has no file {folder}/{name}; {REMEDY}")
        yield file, member.size


CIFAR10 = Cifar(
    RemoteFile(
        "cifar-10-binary.tar.gz",
        sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        size=170_052_171,
    ),
    "cifar-10-batches-bin",
    "batches.meta.txt",
    10,
    ([f"data_batch_{number}.bin" for number in range(1, 6)], ["test_batch.bin"]),
    1,
)
CIFAR100 = Cifar(
    RemoteFile(
        "cifar-100-binary.tar.gz",
        sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        size=168_513_733,
    ),
    "cifar-100-binary",
    "fine_label_names.txt",
    100,
    (["train.bin"], ["test.bin"]),
    2,
)
