"""QMNIST: MNIST rebuilt, with all 60,000 test images, 28 x 28 pixels, grey.

The training images are MNIST's, and so are the first 10,000 test images. The label files hold eight
numbers per image: the class, then where NIST's collection holds the digit and its writer, which is
not used here.

Source: Yadav and Bottou, "Cold Case: the Lost MNIST Digits" (2019), with the addresses and MD5s of
torchvision.
"""

from pathlib import Path

from image_pipeline.common.params import Params
from image_pipeline.downloading.dataset import RawDataset
from image_pipeline.downloading.mirrors import RemoteFile, fetch_files

CLASS_NAMES = tuple(str(digit) for digit in range(10))
LABEL_COLUMNS = 8


def fetch(folder: Path, mirror: str | None, params: Params) -> None:
    from torchvision.datasets import QMNIST

    resources = [*QMNIST.resources["train"], *QMNIST.resources["test"]]
    files = [RemoteFile(url.rpartition("/")[2], md5, url=url) for url, md5 in resources]
    fetch_files(files, [], folder, mirror)


def read(folder: Path, params: Params) -> RawDataset:
    from image_pipeline.reading.mnist_family import read_split

    train, test = (
        read_split(
            folder / f"qmnist-{part}-images-idx3-ubyte.gz",
            folder / f"qmnist-{part}-labels-idx2-int.gz",
            len(CLASS_NAMES),
            label_columns=LABEL_COLUMNS,
        )
        for part in ("train", "test")
    )
    return RawDataset(CLASS_NAMES, train, test)
