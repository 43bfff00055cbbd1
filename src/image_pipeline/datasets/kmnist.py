"""KMNIST: cursive Japanese characters, 28 x 28 pixels, grey, in files named like MNIST's.

Source: Clanuwat et al., "Deep Learning for Classical Japanese Literature" (2018), with the mirrors
and MD5s of torchvision.
"""

from pathlib import Path

from image_pipeline.common.params import Params
from image_pipeline.downloading.dataset import RawDataset
from image_pipeline.downloading.mirrors import RemoteFile, fetch_files

CLASS_NAMES = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")


def fetch(folder: Path, mirror: str | None, params: Params) -> None:
    from torchvision.datasets import KMNIST

    files = [RemoteFile(name, md5) for name, md5 in KMNIST.resources]
    fetch_files(files, KMNIST.mirrors, folder, mirror)


def read(folder: Path, params: Params) -> RawDataset:
    from image_pipeline.reading.mnist_family import read_mnist_files

    return read_mnist_files(folder, CLASS_NAMES)
