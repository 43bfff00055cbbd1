"""EMNIST: handwritten letters and digits, 28 x 28 pixels, grey, in six splits of one zip file.

The zip file holds gzip-compressed IDX files and is read as it is; nothing is extracted. In them the
images are transposed (their authors wrote them column by column); here they come out upright.

Source: Cohen, Afshar, Tapson and van Schaik, "EMNIST: an extension of MNIST to handwritten letters"
(2017), through the class of torchvision that knows its address, MD5 and class names.
"""

import string
from pathlib import Path

from image_pipeline.datasets.base import RawSplit
from image_pipeline.datasets.download import RemoteFile, fetch_files
from image_pipeline.datasets.idx import ZipMember
from image_pipeline.datasets.mnist import read_split

ARCHIVE = "gzip.zip"

DIGITS = tuple(string.digits)
DIGITS_AND_LETTERS = tuple(string.digits + string.ascii_uppercase + string.ascii_lowercase)
# The lower-case letters that look like their capitals are in one class with them.
MERGED = tuple(name for name in DIGITS_AND_LETTERS if name not in set("cijklmopsuvwxyz"))
CLASS_NAMES = {
    "byclass": DIGITS_AND_LETTERS,
    "bymerge": MERGED,
    "balanced": MERGED,
    "letters": tuple(string.ascii_lowercase),  # each stands for its capital too
    "digits": DIGITS,
    "mnist": DIGITS,
}


class Emnist:
    """One of the six splits, as its authors call them: each has its own training and test images.

    Args:
        split: a key of `CLASS_NAMES`.
    """

    def __init__(self, split: str) -> None:
        self._split = split
        self.class_names = CLASS_NAMES[split]

    def fetch(self, folder: Path, mirror: str | None) -> None:
        """See `Dataset.fetch`; all splits are in one file."""
        from torchvision.datasets import EMNIST

        address, name = EMNIST.url.rsplit("/", 1)
        file = RemoteFile(name, EMNIST.md5)
        fetch_files([file], [address], folder, mirror)

    def read(self, folder: Path) -> tuple[RawSplit, RawSplit]:
        """See `Dataset.read`."""
        train, test = (
            read_split(
                self._member(folder, f"{part}-images-idx3-ubyte.gz"),
                self._member(folder, f"{part}-labels-idx1-ubyte.gz"),
                self.class_names,
                first_label=1 if self._split == "letters" else 0,
                transposed=True,
            )
            for part in ("train", "test")
        )
        return train, test

    def _member(self, folder: Path, name: str) -> ZipMember:
        return ZipMember(folder / ARCHIVE, f"gzip/emnist-{self._split}-{name}")
