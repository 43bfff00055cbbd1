"""The 1,797 handwritten digits that ship with scikit-learn, brought to 28 x 28 in MNIST's manner.

Needs no network. Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits" (UCI).
"""

import gzip
import hashlib
from importlib.metadata import distribution
from pathlib import Path

import numpy as np

from image_pipeline.common.errors import DataError
from image_pipeline.common.files import write_bytes
from image_pipeline.datasets.base import REMEDY, RawSplit, reading

FILE = "digits.csv.gz"
SHA256_UNPACKED = "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8"
SIZE_UNPACKED = 264_712  # bytes
FULL = 16  # the brightest value in the file
SIZE = 28  # pixels on a side of the result
BOX = 20  # pixels on the longer side of the digit in it, as in MNIST
TEST_FRACTION = 0.2
SPLIT_SEED = 0  # fixed: the test split is part of the data set


class Digits:
    """A copy of scikit-learn's file; a fifth of each class, chosen once, is the test split."""

    class_names = tuple(str(digit) for digit in range(10))

    def fetch(self, folder: Path, mirror: str | None) -> None:  # noqa: ARG002
        """See `Dataset.fetch`; no mirror is needed."""
        shipped = distribution("scikit-learn").locate_file(f"sklearn/datasets/data/{FILE}")
        write_bytes(folder / FILE, Path(str(shipped)).read_bytes())

    def read(self, folder: Path) -> tuple[RawSplit, RawSplit]:
        """See `Dataset.read`."""
        from sklearn.model_selection import train_test_split

        rows = self._read_rows(folder / FILE)
        small = rows[:, :-1].reshape(-1, 8, 8)
        labels = rows[:, -1]
        images = np.stack([to_mnist_manner(image) for image in small])[:, np.newaxis]
        train, test = train_test_split(
            np.arange(len(labels)),
            test_size=TEST_FRACTION,
            random_state=SPLIT_SEED,
            stratify=labels,
        )
        train, test = np.sort(train), np.sort(test)
        return self._part(images[train], labels[train]), self._part(images[test], labels[test])

    @staticmethod
    def _part(images: np.ndarray, labels: np.ndarray) -> RawSplit:
        return RawSplit((1, SIZE, SIZE), labels, lambda: [images])

    def _read_rows(self, path: Path) -> np.ndarray:
        with reading(path, "gzip"), gzip.open(path) as file:
            text = file.read(SIZE_UNPACKED + 1)  # no more, were it a bomb
        if hashlib.sha256(text).hexdigest() != SHA256_UNPACKED:
            raise DataError(f"{path}: not scikit-learn's digits (another SHA-256); {REMEDY}")
        return np.loadtxt(text.decode().splitlines(), delimiter=",", dtype=np.uint8)


def to_mnist_manner(image: np.ndarray) -> np.ndarray:
    """Bring one digit, uint8 `[8, 8]` with values 0 to 16, to uint8 `[28, 28]` with 0 to 255.

    As MNIST was made: the digit is cut out, its longer side scaled to 20 pixels with its
    proportions kept, and laid so that its centre of mass is the image's centre.
    """
    from PIL import Image

    bright = np.rint(image.astype(np.float64) * 255 / FULL).astype(np.uint8)
    filled_rows, filled_columns = np.any(bright, axis=1), np.any(bright, axis=0)
    top, bottom = np.flatnonzero(filled_rows)[[0, -1]]
    left, right = np.flatnonzero(filled_columns)[[0, -1]]
    cut = bright[top : bottom + 1, left : right + 1]
    scale = BOX / max(cut.shape)
    height, width = (max(1, round(side * scale)) for side in cut.shape)
    resized = np.asarray(Image.fromarray(cut).resize((width, height), Image.Resampling.BICUBIC))

    weights = resized.astype(np.int64)
    total = int(weights.sum())
    row = int((weights.sum(axis=1) * np.arange(height)).sum()) / total
    column = int((weights.sum(axis=0) * np.arange(width)).sum()) / total
    y = min(max(round((SIZE - 1) / 2 - row), 0), SIZE - height)
    x = min(max(round((SIZE - 1) / 2 - column), 0), SIZE - width)
    canvas = np.zeros((SIZE, SIZE), np.uint8)
    canvas[y : y + height, x : x + width] = resized
    return canvas
