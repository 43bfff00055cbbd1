"""USPS's files: bzip2-compressed text in LIBSVM's format.

A line is an image: its label, 1 to 10, then `index:value` of each of its 256 pixels, row by row,
with values from -1 to 1.
"""

import bz2
from io import BytesIO
from pathlib import Path

import numpy as np

from image_pipeline.common.errors import DataError, one_line
from image_pipeline.downloading.dataset import RawSplit
from image_pipeline.reading.raw_files import REMEDY, translate_read_errors

SHAPE = (16, 16)  # of an image
PIXELS = SHAPE[0] * SHAPE[1]
MAX_BYTES = 1 << 26  # decompressed; the larger file has some 20 MB


def read_split(path: Path) -> RawSplit:
    """Read a split; pixels by torchvision's formula, in float32, rounded down.

    Raises:
        DataError: the file is missing, damaged or something else.
    """
    from sklearn.datasets import load_svmlight_file

    with translate_read_errors(path, "bzip2"), bz2.open(path) as file:
        text = file.read(MAX_BYTES + 1)  # bounded, against a decompression bomb
    if len(text) > MAX_BYTES:
        raise DataError(f"{path}: decompresses to more than {MAX_BYTES} bytes; {REMEDY}")
    try:
        rows, labels = load_svmlight_file(
            BytesIO(text), n_features=PIXELS, dtype=np.float32, zero_based=False
        )
    except (ValueError, OverflowError) as error:
        raise DataError(f"{path}: not in LIBSVM's format ({one_line(error)}); {REMEDY}") from None
    if not len(labels):
        raise DataError(f"{path}: it has no images; {REMEDY}")
    if rows.nnz != len(labels) * PIXELS:  # zeros that are written out count
        raise DataError(f"{path}: an image lacks some of its {PIXELS} pixels; {REMEDY}")
    if not np.isin(labels, np.arange(1, 11)).all():
        raise DataError(f"{path}: a label is not one of 1 to 10; {REMEDY}")
    values = rows.toarray()
    if not (np.abs(values) <= 1).all():  # False for a NaN, too
        raise DataError(f"{path}: a pixel is not from -1 to 1; {REMEDY}")
    images = ((values + 1) / 2 * 255).astype(np.uint8).reshape(-1, 1, *SHAPE)
    return RawSplit((1, *SHAPE), (labels - 1).astype(np.uint8), lambda: [images])
