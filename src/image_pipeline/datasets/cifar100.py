"""CIFAR-100: photographs of 100 classes, 32 x 32 pixels, in colour, in the binary version.

Source and checksum: see `cifar10.py`.
"""

from pathlib import Path

from image_pipeline.common.params import Params
from image_pipeline.downloading.dataset import RawDataset
from image_pipeline.downloading.mirrors import RemoteFile, fetch_files

ARCHIVE = RemoteFile(
    "cifar-100-binary.tar.gz",
    "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    size=168_513_733,
    url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
)


def fetch(folder: Path, mirror: str | None, params: Params) -> None:
    fetch_files([ARCHIVE], [], folder, mirror)


def read(folder: Path, params: Params) -> RawDataset:
    """Read the data set; of an image's coarse and fine label, the fine one is its class."""
    from image_pipeline.reading.cifar import read_cifar

    names, train, test = (
        f"cifar-100-binary/{name}" for name in ("fine_label_names.txt", "train.bin", "test.bin")
    )
    return read_cifar(folder / ARCHIVE.name, 2, names, 100, [train], [test])
