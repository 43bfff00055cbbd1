"""CIFAR-10: photographs of animals and vehicles, 32 x 32 pixels, in colour, in the binary version.

Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009). torchvision has
only the version as pickles, which run code when they are read; SHA-256 and size of the binary
version are from TensorFlow Datasets.
"""

from pathlib import Path

from image_pipeline.common.params import Params
from image_pipeline.downloading.dataset import RawDataset
from image_pipeline.downloading.mirrors import RemoteFile, fetch_files

ARCHIVE = RemoteFile(
    "cifar-10-binary.tar.gz",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    size=170_052_171,
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
)


def fetch(folder: Path, mirror: str | None, params: Params) -> None:
    fetch_files([ARCHIVE], [], folder, mirror)


def read(folder: Path, params: Params) -> RawDataset:
    from image_pipeline.reading.cifar import read_cifar

    train = [f"cifar-10-batches-bin/data_batch_{number}.bin" for number in range(1, 6)]
    test = ["cifar-10-batches-bin/test_batch.bin"]
    names = "cifar-10-batches-bin/batches.meta.txt"
    return read_cifar(folder / ARCHIVE.name, 1, names, 10, train, test)
