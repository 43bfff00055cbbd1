"""A data set by its name: a file of `image_pipeline.datasets` with functions `fetch` and `read`."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from image_pipeline import datasets
from image_pipeline.common.errors import ParamsError, one_line
from image_pipeline.common.params import Params
from image_pipeline.common.paths import PARAMS
from image_pipeline.common.schema import Bits, Fit

if TYPE_CHECKING:
    import numpy as np  # which `fetch` does not need


@dataclass(frozen=True)
class RawSplit:
    """All labels of a split, and its images as a stream, so that it may be larger than memory.

    Attributes:
        shape: channels, height and width of every image.
        labels: unsigned integers `[N]`, in the images' order.
        chunks: starts reading; yields the N images in order as uint8 `[n, C, H, W]`.
        files: the names of the images' files, in the same order; empty if there are no files.
    """

    shape: tuple[int, int, int]
    labels: "np.ndarray"
    chunks: Callable[[], Iterable["np.ndarray"]]
    files: Sequence[str] = ()


@dataclass(frozen=True)
class RawDataset:
    """A data set with its official training and test split.

    Attributes:
        class_names: the label `i` stands for `class_names[i]`.
        train: the training split, from which the validation split is taken.
        test: the test split.
        skipped: unreadable image files that were left out.
        fit: how a new image of another size is brought to the images' shape.
        bits: of the values of 16-bit image files; see `image_pipeline.reading.sixteen_bits`.
        crop_fraction: share of a new image's shorter side that `crop` keeps.
    """

    class_names: tuple[str, ...]
    train: RawSplit
    test: RawSplit
    skipped: int = 0
    fit: Fit = "pad"
    bits: Bits = 16
    crop_fraction: float = 1.0


class Dataset(Protocol):
    """What a data set's file defines."""

    def fetch(self, folder: Path, mirror: str | None, params: Params) -> None:
        """Download the original files into `folder`; a file appears only once it is verified.

        Args:
            folder: created if missing; verified files in it are kept.
            mirror: an http(s) address or a local folder to try first, or None.
            params: of which it may use the block `download`.

        Raises:
            DownloadError: no mirror delivered a file.
        """

    def read(self, folder: Path, params: Params) -> RawDataset:
        """Read the files that `fetch` downloaded into `folder`.

        Args:
            folder: see `fetch`.
            params: of which it may use the block `tensorize`, and `download` for error messages.

        Raises:
            DataError: a file is missing or invalid.
        """


def load_dataset(name: str) -> Dataset:
    """Import a data set's file.

    Raises:
        ParamsError: it cannot be imported, or lacks a function.
    """
    file = f"{PARAMS}: download.dataset: src/image_pipeline/datasets/{name}.py"
    try:
        module = import_module(f"{datasets.__name__}.{name}")
    except (ModuleNotFoundError, SyntaxError) as error:
        raise ParamsError(f"{file} cannot be imported: {one_line(error)}") from error
    for function in ("fetch", "read"):
        if not callable(getattr(module, function, None)):
            raise ParamsError(f"{file} has no function `{function}`")
    return cast("Dataset", module)
