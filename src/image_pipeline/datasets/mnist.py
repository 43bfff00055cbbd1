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

from image_pipeline.common.errors import DataError
from image_pipeline.datasets.base import REMEDY, RawSplit, images_per_chunk
from image_pipeline.datasets.download import RemoteFile, fetch_files
from image_pipeline.datasets.idx import INT32, UINT8, ZipMember, iterate_idx, read_shape

SHAPE = (28, 28)  # of an image
LABELS_AT_ONCE = 1 << 16
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


def read_split(
    images: Path | ZipMember,
    labels: Path | ZipMember,
    class_names: tuple[str, ...],
    *,
    first_label: int = 0,
    label_columns: int = 0,
    transposed: bool = False,
) -> RawSplit:
    """Read a split from its two IDX files, one of images, one of labels.

    Args:
        images: uint8 `[N, 28, 28]`.
        labels: uint8 `[N]`; or, with `label_columns`, int32 `[N, label_columns]`, of which the
            first column is the class.
        class_names: one per class.
        first_label: what the file calls the first class; the split calls it 0.
        label_columns: see `labels`.
        transposed: whether the file holds each image mirrored at its main diagonal.

    Raises:
        DataError: a file is missing or torn, or the two do not fit each other.
    """
    count, *size = read_shape(images, rank=3)
    if tuple(size) != SHAPE or not count:
        raise DataError(
            f"{images}: {count} images of {tuple(size)} pixels, expected are some of {SHAPE}; "
            f"{REMEDY}"
        )
    rank, dtype = (2, INT32) if label_columns else (1, UINT8)
    promised, *columns = read_shape(labels, rank, dtype)
    if promised != count:
        raise DataError(f"{labels}: {promised} labels for {count} images; {REMEDY}")
    if columns not in ([], [label_columns]):
        raise DataError(f"{labels}: {columns[0]} columns, expected are {label_columns}; {REMEDY}")
    last_label = first_label + len(class_names) - 1
    classes = np.empty(count, np.uint8)
    start = 0
    for part in iterate_idx(labels, rank, LABELS_AT_ONCE, dtype):
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
        train, test = (
            read_split(
                folder / f"{prefix}-images-idx3-ubyte.gz",
                folder / f"{prefix}-labels-idx1-ubyte.gz",
                self.class_names,
            )
            for prefix in ("train", "t10k")
        )
        return train, test


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
