"""The tensorized splits: one safetensors file each, uint8 images and int64 labels.

A file holds `images` uint8 `[N, C, H, W]` and `labels` int64 `[N]`. Class names and normalisation
statistics are in one JSON metadata key: safetensors writes its keys in random order, so a second
one would change the file's hash from run to run.

A reader checks all that a stage relies on. A changed pixel it cannot see: the hashes that DVC keeps
of every file tell that.
"""

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, get_args

import numpy as np
from safetensors import SafetensorError, safe_open

from image_pipeline.common.errors import DataError, one_line
from image_pipeline.common.files import atomic_write
from image_pipeline.common.schema import Fit

if TYPE_CHECKING:
    import torch

METADATA_KEY = "image_pipeline"


@dataclass(frozen=True)
class DatasetInfo:
    """What a split's numbers mean.

    Attributes:
        dataset: the data set's name.
        class_names: the label `i` stands for `class_names[i]`.
        mean, std: of the training split's pixels, per channel, in units of a full pixel (0 to 1).
        fit: how an image of another size is brought to the images' size.
    """

    dataset: str
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fit: Fit = "pad"

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "DatasetInfo":
        """Make a description from parsed JSON.

        Raises:
            KeyError, OverflowError, TypeError, ValueError: a value is missing or not what it
                should be.
        """
        description = cls(
            dataset=str(values["dataset"]),
            class_names=tuple(values["class_names"]),
            mean=tuple(float(value) for value in values["mean"]),
            std=tuple(float(value) for value in values["std"]),
            fit=values["fit"],
        )
        if len(set(description.class_names)) != len(description.class_names):
            raise ValueError("two classes of one name")
        if len(description.class_names) < 2:
            raise ValueError("fewer than two classes")
        if not all(isinstance(name, str) and name.isprintable() for name in values["class_names"]):
            raise ValueError("a class name is not a word")
        if len(description.mean) != len(description.std):
            raise ValueError("means and standard deviations do not pair")
        if not all(math.isfinite(value) for value in description.mean):
            raise ValueError("a mean is not finite")
        if not all(math.isfinite(value) and value > 0 for value in description.std):
            raise ValueError("a standard deviation is not above 0")
        if description.fit not in get_args(Fit):
            raise ValueError("neither pad nor crop")
        return description


@dataclass(frozen=True)
class Split:
    """Images uint8 `[N, C, H, W]` and labels int64 `[N]`, memory-mapped, with their description."""

    images: "torch.Tensor"
    labels: "torch.Tensor"
    description: DatasetInfo

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width


class SplitWriter:
    """Writes a split of a known size, some images at a time; see `writing_split`.

    safetensors itself writes tensors that are whole in memory only. Its format: eight bytes with
    the header's length, the header (JSON, may end in spaces), the tensors one after the other.
    Source: https://huggingface.co/docs/safetensors.
    """

    def __init__(
        self, file: BinaryIO, count: int, shape: tuple[int, int, int], widest: DatasetInfo
    ) -> None:
        self._file = file
        self._count = count
        self._shape = shape
        # The statistics are known last, so the header is written last, in the room of the longest.
        self._room = -(-len(self._header(widest)) // 8) * 8
        self._labels_at = 8 + self._room
        self._images_at = self._labels_at + 8 * count
        self._written = 0

    def _header(self, description: DatasetInfo) -> bytes:
        labels, images = 8 * self._count, self._count * math.prod(self._shape)
        header = {
            "__metadata__": {METADATA_KEY: json.dumps(asdict(description), sort_keys=True)},
            "labels": {"dtype": "I64", "shape": [self._count], "data_offsets": [0, labels]},
            "images": {
                "dtype": "U8",
                "shape": [self._count, *self._shape],
                "data_offsets": [labels, labels + images],
            },
        }
        return json.dumps(header, separators=(",", ":")).encode()

    def append(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Write images uint8 `[n, C, H, W]` and labels `[n]`, of any type of integers."""
        if images.shape != (len(labels), *self._shape) or images.dtype != np.uint8:
            raise ValueError(f"{images.dtype} {images.shape} for {len(labels)} labels")
        self._file.seek(self._labels_at + 8 * self._written)
        self._file.write(labels.astype("<i8").data)
        self._file.seek(self._images_at + math.prod(self._shape) * self._written)
        self._file.write(np.ascontiguousarray(images).data)
        self._written += len(labels)

    def finish(self, description: DatasetInfo) -> None:
        """Write the header; all images must have been written."""
        if self._written != self._count:
            raise ValueError(f"{self._written} images were written, {self._count} were promised")
        header = self._header(description).ljust(self._room)
        self._file.seek(0)
        self._file.write(struct.pack("<Q", self._room) + header)


@contextmanager
def writing_split(
    path: Path,
    count: int,
    shape: tuple[int, int, int],
    dataset: str,
    class_names: tuple[str, ...],
) -> Iterator[SplitWriter]:
    """Open a split to be written: `append` all its images, then `finish` it.

    The file takes the place of `path` when the block ends without an error.

    Args:
        path: of the split.
        count: how many images it will have.
        shape: channels, height and width of an image.
        dataset: the data set's name.
        class_names: one per class.
    """
    longest = (0.12345678,) * shape[0]  # the statistics are rounded to eight digits
    with atomic_write(path) as file:
        widest = DatasetInfo(dataset, class_names, longest, longest, "crop")
        yield SplitWriter(file, count, shape, widest)


@dataclass(frozen=True)
class Sample:
    """Some images of a split, uint8 `[N, C, H, W]`, and their labels, int64 `[N]`, for NumPy."""

    images: np.ndarray
    labels: np.ndarray
    description: DatasetInfo

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width


@contextmanager
def open_tensors(path: Path, framework: str, stage: str) -> Iterator[Any]:
    """Open a safetensors file; what goes wrong in the block is wrong with the file.

    Args:
        path: the file.
        framework: `pt` or `numpy`.
        stage: the stage that writes the file.

    Raises:
        DataError: the file is missing, unreadable or torn, or a value in it is not of its type.
    """
    remedy = f"run `dvc repro --force {stage}` to make it anew"
    try:
        with safe_open(path, framework=framework) as file:
            yield file
    except FileNotFoundError:  # which safetensors also makes of a missing permission
        if path.exists():
            raise DataError(f"{path}: cannot be read (permission denied); {remedy}") from None
        raise DataError(f"{path}: not found; run `dvc repro {stage}`") from None
    except OSError as error:  # of safetensors' own making, without an errno
        reason = "it is a folder" if path.is_dir() else one_line(error)
        raise DataError(f"{path}: cannot be read ({reason}); {remedy}") from None
    except SafetensorError as error:
        reason = f"it is no valid safetensors file ({one_line(error)})"
        raise DataError(f"{path}: {reason}; {remedy}") from None
    # What a header that is valid, but not ours, makes of Python, NumPy and torch.
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        reason = f"its header or a value in it is unusable ({one_line(repr(e))})"
        raise DataError(f"{path}: {reason}; {remedy}") from None


def read_split(path: Path) -> Split:
    """Memory-map a split and check that it is what a tensorized split must be.

    Raises:
        DataError: the file is missing, torn, or has other tensors, shapes, types or labels.
    """
    with open_tensors(path, "pt", "tensorize") as file:
        description = _check_header(path, file)
        images, labels = file.get_tensor("images"), file.get_tensor("labels")
        _check_labels(path, int(labels.min()), int(labels.max()), description)
        return Split(images, labels, description)


def read_sample(path: Path, indices: Sequence[int]) -> Sample:
    """Read the images at `indices` and their labels alone, without torch.

    Raises:
        DataError: the file is missing or torn, or has no such images.
    """
    with open_tensors(path, "numpy", "tensorize") as file:
        description = _check_header(path, file)
        images, labels = file.get_slice("images"), file.get_slice("labels")
        empty = np.empty((0, *images.get_shape()[1:]), np.uint8)
        sample = Sample(
            np.concatenate([empty, *(images[index : index + 1] for index in indices)]),
            np.array([labels[index : index + 1][0] for index in indices], np.int64),
            description,
        )
        if indices:
            low, high = int(sample.labels.min()), int(sample.labels.max())
            _check_labels(path, low, high, description)
        return sample


def read_labels(path: Path) -> np.ndarray:
    """Read all labels of a split, int64 `[N]`, and no image.

    Raises:
        DataError: the file is missing or torn, or a label is not one of a class.
    """
    with open_tensors(path, "numpy", "tensorize") as file:
        description = _check_header(path, file)
        labels: np.ndarray = file.get_tensor("labels")
        _check_labels(path, int(labels.min()), int(labels.max()), description)
        return labels


def count_images(path: Path) -> int:
    """Return how many images the split at `path` holds, without reading them.

    Raises:
        DataError: the file is missing or torn.
    """
    with open_tensors(path, "numpy", "tensorize") as file:
        _check_header(path, file)
        return int(file.get_slice("images").get_shape()[0])


def _check_header(path: Path, file: Any) -> DatasetInfo:
    """Check what can be checked without reading a tensor, so that nothing large is made of it."""
    names = sorted(file.keys())
    if names != ["images", "labels"]:
        raise _broken(path, f"it holds the tensors {names}, not images and labels")
    shapes = []
    for name, dtype, dimensions in (("images", "U8", 4), ("labels", "I64", 1)):
        part = file.get_slice(name)
        shapes.append(part.get_shape())
        if part.get_dtype() != dtype or len(shapes[-1]) != dimensions:
            found = f"{part.get_dtype()} {shapes[-1]}"
            raise _broken(path, f"`{name}` is {found}, not {dtype} of rank {dimensions}")
    (count, *shape), (labels,) = shapes
    if 0 in (count, *shape) or count != labels:
        raise _broken(path, f"{(count, *shape)} images do not fit {labels} labels")
    description = DatasetInfo.from_values(json.loads((file.metadata() or {})[METADATA_KEY]))
    if shape[0] != len(description.mean):
        raise _broken(path, f"{shape[0]} channels but {len(description.mean)} statistics")
    return description


def _check_labels(path: Path, low: int, high: int, description: DatasetInfo) -> None:
    allowed = len(description.class_names) - 1
    if low < 0 or high > allowed:
        raise _broken(path, f"labels run from {low} to {high}, allowed is 0 to {allowed}")


def _broken(path: Path, reason: str) -> DataError:
    remedy = "run `dvc repro --force tensorize` to make it anew"
    return DataError(f"{path}: {one_line(reason)}; {remedy}")
