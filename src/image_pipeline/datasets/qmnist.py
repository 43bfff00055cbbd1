"""QMNIST: MNIST's digits made anew, with all 60,000 test images, 28 x 28 pixels, grey.

The labels' files hold eight numbers per image: the class, and where in NIST's collection the digit
and its writer are found, which is not used here.

Source: Yadav and Bottou, "Cold Case: the Lost MNIST Digits" (2019), through the class of
torchvision that knows its addresses and MD5s.
"""

from pathlib import Path

from image_pipeline.datasets.base import RawSplit
from image_pipeline.datasets.download import RemoteFile, fetch_files
from image_pipeline.datasets.mnist import read_split

COLUMNS = 8


class Qmnist:
    """MNIST's training images, and 60,000 test images, of which MNIST has the first 10,000."""

    class_names = tuple(str(digit) for digit in range(10))

    def fetch(self, folder: Path, mirror: str | None) -> None:
        """See `Dataset.fetch`."""
        from torchvision.datasets import QMNIST

        resources = [*QMNIST.resources["train"], *QMNIST.resources["test"]]
        files = [RemoteFile(url.rsplit("/", 1)[1], md5) for url, md5 in resources]
        addresses = dict.fromkeys(url.rsplit("/", 1)[0] for url, _ in resources)
        fetch_files(files, list(addresses), folder, mirror)

    def read(self, folder: Path) -> tuple[RawSplit, RawSplit]:
        """See `Dataset.read`."""
        train, test = (
            read_split(
                folder / f"qmnist-{part}-images-idx3-ubyte.gz",
                folder / f"qmnist-{part}-labels-idx2-int.gz",
                self.class_names,
                label_columns=COLUMNS,
            )
            for part in ("train", "test")
        )
        return train, test
