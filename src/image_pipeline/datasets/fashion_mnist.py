"""Fashion-MNIST: photographs of clothes, 28 x 28 pixels, grey, in files named like MNIST's.

Source: Xiao, Rasul and Vollgraf, "Fashion-MNIST" (2017), with the mirrors and MD5s of torchvision.
"""

from pathlib import Path

from image_pipeline.common.params import Params
from image_pipeline.downloading.dataset import RawDataset
from image_pipeline.downloading.mirrors import RemoteFile, fetch_files

CLASS_NAMES = (
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
)


def fetch(folder: Path, mirror: str | None, params: Params) -> None:
    from torchvision.datasets import FashionMNIST

    files = [RemoteFile(name, md5) for name, md5 in FashionMNIST.resources]
    fetch_files(files, FashionMNIST.mirrors, folder, mirror)


def read(folder: Path, params: Params) -> RawDataset:
    from image_pipeline.reading.mnist_family import read_mnist_files

    return read_mnist_files(folder, CLASS_NAMES)
