"""MNIST, and the data sets that are published in its four files: 28 x 28 pixels, grey.

Each through the class of torchvision that knows its mirrors, MD5s and class names. For MNIST the
SHA-256s and sizes were taken from files with those MD5s.

Sources: LeCun, Cortes and Burges, "The MNIST database of handwritten digits"; Xiao, Rasul and
Vollgraf, "Fashion-MNIST" (2017); Clanuwat et al., "Deep Learning for Classical Japanese Literature"
(2018).
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
    """The four original files, through torchvision's mirrors and checksums.

    Args:
        published_as: the class in `torchvision.datasets`.
        class_names: one per class.
    """

    def __init__(self, published_as: str, class_names: tuple[str, ...]) -> None:
        self._published_as = published_as
        self.class_names = class_names

    def fetch(self, folder: Path, mirror: str | None) -> None:
        """See `Dataset.fetch`."""
        from torchvision import datasets

        source = getattr(datasets, self._published_as)
        known = SHA256_AND_SIZE if self._published_as == "MNIST" else {}
        files = [RemoteFile(name, md5, *known.get(name, ())) for name, md5 in source.resources]
        fetch_files(files, source.mirrors, folder, mirror)

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
                f"{labels_path}: the label {labels.max()} is not one of 0 to "
                f"{len(self.class_names) - 1}; {REMEDY}"
            )

        def chunks() -> Iterator[np.ndarray]:
            for images in iterate_idx(path, rank=3, rows=images_per_chunk(SHAPE)):
                yield images[:, np.newaxis]

        return RawSplit((1, *SHAPE), labels, chunks)


MNIST = Mnist("MNIST", tuple(str(digit) for digit in range(10)))
FASHION_MNIST = Mnist(
    "FashionMNIST",
    (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
)
KMNIST = Mnist("KMNIST", ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"))
