"""USPS: digits from envelopes, 16 x 16 pixels, grey, as bzip2-compressed text in LIBSVM's format.

Source: Hull, "A database for handwritten text recognition research" (1994), in the version of the
LIBSVM data sets, with the addresses and MD5s of torchvision.
"""

from pathlib import Path

from image_pipeline.common.params import Params
from image_pipeline.downloading.dataset import RawDataset
from image_pipeline.downloading.mirrors import RemoteFile, fetch_files

CLASS_NAMES = tuple(str(digit) for digit in range(10))


def fetch(folder: Path, mirror: str | None, params: Params) -> None:
    from torchvision.datasets import USPS

    published = [USPS.split_list[part] for part in ("train", "test")]
    files = [RemoteFile(name, md5, url=url) for url, name, md5 in published]
    fetch_files(files, [], folder, mirror)


def read(folder: Path, params: Params) -> RawDataset:
    from image_pipeline.reading.usps import read_split

    return RawDataset(
        CLASS_NAMES, read_split(folder / "usps.bz2"), read_split(folder / "usps.t.bz2")
    )
