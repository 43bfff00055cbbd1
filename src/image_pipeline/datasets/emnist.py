"""EMNIST: handwritten letters and digits, 28 x 28 pixels, grey, in six splits of one zip file.

Source: Cohen, Afshar, Tapson and van Schaik, "EMNIST: an extension of MNIST to handwritten letters"
(2017), with the address and MD5 of torchvision.
"""

import string
from pathlib import Path

from image_pipeline.common.params import Params
from image_pipeline.downloading.dataset import RawDataset
from image_pipeline.downloading.mirrors import RemoteFile, fetch_files

ARCHIVE = "gzip.zip"

DIGITS = tuple(string.digits)
DIGITS_AND_LETTERS = tuple(string.digits + string.ascii_uppercase + string.ascii_lowercase)
# Lower-case letters that look like their capitals share a class with them.
MERGED = tuple(name for name in DIGITS_AND_LETTERS if name not in set("cijklmopsuvwxyz"))
CLASS_NAMES = {
    "byclass": DIGITS_AND_LETTERS,
    "bymerge": MERGED,
    "balanced": MERGED,
    "letters": tuple(string.ascii_lowercase),  # each stands for its capital too
    "digits": DIGITS,
    "mnist": DIGITS,
}


def fetch(folder: Path, mirror: str | None, params: Params) -> None:
    """Download one file with all six splits."""
    from torchvision.datasets import EMNIST

    fetch_files([RemoteFile(ARCHIVE, EMNIST.md5, url=EMNIST.url)], [], folder, mirror)


def read(folder: Path, params: Params) -> RawDataset:
    """Read one split; the files hold the images transposed."""
    from image_pipeline.reading.idx import ZipMember
    from image_pipeline.reading.mnist_family import read_split

    split = params.tensorize.emnist_split
    train, test = (
        read_split(
            ZipMember(folder / ARCHIVE, f"gzip/emnist-{split}-{part}-images-idx3-ubyte.gz"),
            ZipMember(folder / ARCHIVE, f"gzip/emnist-{split}-{part}-labels-idx1-ubyte.gz"),
            len(CLASS_NAMES[split]),
            first_label=1 if split == "letters" else 0,
            transposed=True,
        )
        for part in ("train", "test")
    )
    return RawDataset(CLASS_NAMES[split], train, test)
