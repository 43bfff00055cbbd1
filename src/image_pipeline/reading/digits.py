"""scikit-learn's digits, 8 x 8 pixels with 17 grey levels, brought to 28 x 28 pixels with 256."""

import gzip
import hashlib
from pathlib import Path

import numpy as np

from image_pipeline.common.errors import DataError
from image_pipeline.downloading.dataset import RawSplit
from image_pipeline.reading.mnist_centring import BOX, SIDE, centre
from image_pipeline.reading.raw_files import REMEDY, translate_read_errors

SHA256_DECOMPRESSED = "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8"
SIZE_DECOMPRESSED = 264_712  # bytes
MAX_VALUE = 16  # of a pixel in the file
TEST_FRACTION = 0.2
SPLIT_SEED = 0  # fixed: the test split is part of the data set


def read_digits(path: Path) -> tuple[RawSplit, RawSplit]:
    """Read scikit-learn's file; return the training and the test split.

    Raises:
        DataError: the file is missing, damaged or something else.
    """
    from sklearn.model_selection import train_test_split

    rows = read_rows(path)
    labels = rows[:, -1]
    small = rows[:, :-1].reshape(-1, 8, 8)
    images = np.stack([center_digit(image) for image in small])[:, np.newaxis]
    train, test = train_test_split(
        np.arange(len(labels)), test_size=TEST_FRACTION, random_state=SPLIT_SEED, stratify=labels
    )
    train, test = np.sort(train), np.sort(test)
    return _split(images[train], labels[train]), _split(images[test], labels[test])


def _split(images: np.ndarray, labels: np.ndarray) -> RawSplit:
    return RawSplit((1, SIDE, SIDE), labels, lambda: [images])


def read_rows(path: Path) -> np.ndarray:
    """Read the table, uint8 `[1797, 65]`: 64 pixels and the label a row."""
    with translate_read_errors(path, "gzip"), gzip.open(path) as file:
        text = file.read(SIZE_DECOMPRESSED + 1)  # bounded, against a decompression bomb
    if hashlib.sha256(text).hexdigest() != SHA256_DECOMPRESSED:
        raise DataError(f"{path}: not scikit-learn's digits (its SHA-256 differs); {REMEDY}")
    return np.loadtxt(text.decode().splitlines(), delimiter=",", dtype=np.uint8)


def center_digit(image: np.ndarray) -> np.ndarray:
    """Bring one digit, uint8 `[8, 8]` with values 0 to 16, to uint8 `[28, 28]` with 0 to 255.

    As MNIST was made: the digit is cut out, its longer side scaled to 20 pixels with its
    proportions kept, and its centre of mass placed at the centre of the image.
    """
    from PIL import Image

    bright = Image.fromarray(np.rint(image * (255 / MAX_VALUE)).astype(np.uint8))
    cut = bright.crop(bright.getbbox())
    width, height = (max(1, round(side * BOX / max(cut.size))) for side in cut.size)
    return centre(np.asarray(cut.resize((width, height), Image.Resampling.BICUBIC)))
