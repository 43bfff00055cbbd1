"""MNIST: 60,000 training and 10,000 test images of handwritten digits, 28 x 28, grey.

Mirrors and MD5s are torchvision's; the SHA-256s and sizes were taken from files with those MD5s.
Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits".
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from image_pipeline.datasets.base import RawSplit, images_per_chunk
from image_pipeline.datasets.idx import REMEDY, iterate_idx, read_idx, read_shape
from image_pipeline.download import RemoteFile, fetch_files
from image_pipeline.errors import DataError

SHAPE = (28, 28)  # of an image
SHA256_AND_SIZE = {
    "train-images-idx3-ubyte.gz": (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        9_912_422,
    ),
    "train-labels-idx1-ubyte.gz": (
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        28_881,
    ),
    "t10k-images-idx3-ubyte.gz": (
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        1_648_877,
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        4_542,
    ),
}


class Mnist:
    """The four original files, through torchvision's mirrors and checksums."""

    class_names = tuple(str(digit) for digit in range(10))

    def fetch(self, folder: Path, mirror: str | None) -> None:
        """See `Dataset.fetch`."""
        from torchvision.datasets import MNIST

        files = [RemoteFile(name, md5, *SHA256_AND_SIZE[name]) for name, md5 in MNIST.resources]
        fetch_files(files, MNIST.mirrors, folder, mirror)

    def read(self, folder: Path) -> tuple[RawSplit, RawSplit]:
        """See `Dataset.read`."""
        return self._read_split(folder, "train"), self._read_split(folder, "t10k")

    def _read_split(self, folder: Path, prefix: str) -> RawSplit:
        path = folder / f"{prefix}-images-idx3-ubyte.gz"
        count, *size = read_shape(path, rank=3)
        if tuple(size) != SHAPE or not count:
            raise DataError(
                f"{path}: {count} images of {tuple(size)} pixels, expected are some of {SHAPE}; "
                f"{REMEDY}"
            )
        labels_path = folder / f"{prefix}-labels-idx1-ubyte.gz"
        (promised,) = read_shape(labels_path, rank=1)
        if promised != count:
            raise DataError(f"{labels_path}: {promised} labels for {count} images; {REMEDY}")
        labels = read_idx(labels_path, rank=1)
        if labels.max() >= len(self.class_names):
            raise DataError(
                f"{labels_path}: the label {labels.max()} is not one of 0 to 9; {REMEDY}"
            )

        def chunks() -> Iterator[np.ndarray]:
            for images in iterate_idx(path, rank=3, rows=images_per_chunk(SHAPE)):
                yield images[:, np.newaxis]

        return RawSplit((1, *SHAPE), labels, chunks)
