"""The 1,797 handwritten digits that ship with scikit-learn, brought to 28 x 28 pixels like MNIST's.

Needs no network. Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits" (UCI).
"""

from importlib.metadata import distribution
from pathlib import Path

from image_pipeline.common.files import write_bytes
from image_pipeline.common.params import Params
from image_pipeline.downloading.dataset import RawDataset

FILE = "digits.csv.gz"
CLASS_NAMES = tuple(str(digit) for digit in range(10))


def fetch(folder: Path, mirror: str | None, params: Params) -> None:
    """Copy scikit-learn's file without importing scikit-learn."""
    shipped = distribution("scikit-learn").locate_file(f"sklearn/datasets/data/{FILE}")
    write_bytes(folder / FILE, Path(str(shipped)).read_bytes())


def read(folder: Path, params: Params) -> RawDataset:
    """Read the data set; a fixed fifth of each class is the test split."""
    from image_pipeline.reading.digits import read_digits

    train, test = read_digits(folder / FILE)
    return RawDataset(CLASS_NAMES, train, test)
