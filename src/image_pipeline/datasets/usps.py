"""USPS: digits from envelopes, 16 x 16 pixels, grey, as bzip2-compressed text.

A line is an image: its label, 1 to 10, then `index:value` of each of its 256 pixels, row by row,
with values from -1 to 1 (LIBSVM's format).

Source: Hull, "A database for handwritten text recognition research" (1994), in the version of the
LIBSVM data sets, through the class of torchvision that knows its addresses and MD5s.
"""

import bz2
from io import BytesIO
from pathlib import Path

import numpy as np

from image_pipeline.common.errors import DataError, one_line
from image_pipeline.datasets.base import REMEDY, RawSplit, reading
from image_pipeline.datasets.download import RemoteFile, fetch_files

SHAPE = (16, 16)  # of an image
PIXELS = SHAPE[0] * SHAPE[1]
MAX_BYTES = 1 << 26  # unpacked; the larger file has some 20 MB
PARTS = {"train": "usps.bz2", "test": "usps.t.bz2"}


class Usps:
    """The two files, as torchvision reads them."""

    class_names = tuple(str(digit) for digit in range(10))

    def fetch(self, folder: Path, mirror: str | None) -> None:
        """See `Dataset.fetch`."""
        from torchvision.datasets import USPS

        published = [USPS.split_list[part] for part in PARTS]
        files = [RemoteFile(name, md5) for _, name, md5 in published]
        addresses = dict.fromkeys(url.rsplit("/", 1)[0] for url, _, _ in published)
        fetch_files(files, list(addresses), folder, mirror)

    def read(self, folder: Path) -> tuple[RawSplit, RawSplit]:
        """See `Dataset.read`."""
        train, test = (_read_split(folder / name) for name in PARTS.values())
        return train, test


def _read_split(path: Path) -> RawSplit:
    """Make pixels by torchvision's formula: in float32, rounded down."""
    from sklearn.datasets import load_svmlight_file

    with reading(path, "bzip2"), bz2.open(path) as file:
        text = file.read(MAX_BYTES + 1)  # no more, were it a bomb
    if len(text) > MAX_BYTES:
        raise DataError(f"{path}: unpacks to more than {MAX_BYTES} bytes; {REMEDY}")
    try:
        rows, labels = load_svmlight_file(
            BytesIO(text), n_features=PIXELS, dtype=np.float32, zero_based=False
        )
    except (ValueError, OverflowError) as error:
        raise DataError(f"{path}: not in LIBSVM's format ({one_line(error)}); {REMEDY}") from None
    if not len(labels):
        raise DataError(f"{path}: it has no images; {REMEDY}")
    if rows.nnz != len(labels) * PIXELS:  # zeros that are written count
        raise DataError(f"{path}: an image has not all of its {PIXELS} pixels; {REMEDY}")
    if not np.isin(labels, np.arange(1, 11)).all():
        raise DataError(f"{path}: a label is not one of 1 to 10; {REMEDY}")
    values = rows.toarray()
    if not (np.abs(values) <= 1).all():  # False of a NaN, too
        raise DataError(f"{path}: a pixel is not from -1 to 1; {REMEDY}")
    images = ((values + 1) / 2 * 255).astype(np.uint8).reshape(-1, 1, *SHAPE)
    return RawSplit((1, *SHAPE), (labels - 1).astype(np.uint8), lambda: [images])
