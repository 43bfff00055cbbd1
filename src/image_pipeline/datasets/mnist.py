"""MNIST: handwritten digits, 28 x 28 pixels, grey.

Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits", with the mirrors and
MD5s of torchvision. The SHA-256s and sizes were taken from files with those MD5s.
"""

from pathlib import Path

from image_pipeline.common.params import Params
from image_pipeline.downloading.dataset import RawDataset
from image_pipeline.downloading.mirrors import RemoteFile, fetch_files

CLASS_NAMES = tuple(str(digit) for digit in range(10))
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


def fetch(folder: Path, mirror: str | None, params: Params) -> None:
    from torchvision.datasets import MNIST

    files = [RemoteFile(name, *SHA256_AND_SIZE.get(name, (md5,))) for name, md5 in MNIST.resources]
    fetch_files(files, MNIST.mirrors, folder, mirror)


def read(folder: Path, params: Params) -> RawDataset:
    from image_pipeline.reading.mnist_family import read_mnist_files

    return read_mnist_files(folder, CLASS_NAMES)
