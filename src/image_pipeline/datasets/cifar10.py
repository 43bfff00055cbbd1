"""CIFAR-10: photographs of animals and vehicles, 32 x 32 pixels, in colour, in the binary version.

Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009). torchvision
knows the address, but only the checksum of the version as pickles, which run code when they are
read; SHA-256 and size of the binary version are from TensorFlow Datasets.
"""

from pathlib import Path

from image_pipeline.common.params import Params
from image_pipeline.downloading.dataset import RawDataset
from image_pipeline.downloading.mirrors import RemoteFile, fetch_files

ARCHIVE = RemoteFile(
    "cifar-10-binary.tar.gz",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    size=170_052_171,
)
FOLDER = "cifar-10-batches-bin"  # in the archive


def fetch(folder: Path, mirror: str | None, params: Params) -> None:
    from torchvision.datasets import CIFAR10

    fetch_files([ARCHIVE], [CIFAR10.url.rsplit("/", 1)[0]], folder, mirror)


def read(folder: Path, params: Params) -> RawDataset:
    from image_pipeline.reading.cifar import CifarArchive

    archive = CifarArchive(folder / ARCHIVE.name, FOLDER, label_bytes=1)
    train = [f"data_batch_{number}.bin" for number in range(1, 6)]
    return archive.read("batches.meta.txt", 10, train, ["test_batch.bin"])
