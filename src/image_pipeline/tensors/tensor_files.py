"""The tensorized splits: one safetensors file each, uint8 images and int64 labels.

A file holds `images` uint8 `[N, C, H, W]` and `labels` int64 `[N]`. Class names and normalization
statistics are in one JSON metadata key: safetensors writes its keys in random order, so a second
one would change the file's hash from run to run.

Readers check everything that a stage relies on except the pixels: DVC's hashes detect a changed
one.
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
from image_pipeline.common.schema import Bits, Fit

if TYPE_CHECKING:
    import torch

METADATA_KEY = "image_pipeline"


@dataclass(frozen=True)
class DatasetInfo:
    """A split's metadata.

    Attributes:
        dataset: the data set's name.
        class_names: the label `i` stands for `class_names[i]`.
        mean, std: of the training split's pixels, per channel, in units of 255.
        fit: how a new image of another size is brought to the images' shape.
        bits: of the values in a new image file of 16 bits; see `image_pipeline.reading`.
        crop_fraction: share of a new image's shorter side that `crop` keeps.
    """

    dataset: str
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fit: Fit = "pad"
    bits: Bits = 16
    crop_fraction: float = 1.0

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "DatasetInfo":
        """Build from parsed JSON.

        Raises:
            KeyError, OverflowError, TypeError, ValueError: a value is missing or invalid.
        """
        info = cls(
            dataset=str(values["dataset"]),
            class_names=tuple(values["class_names"]),
            mean=tuple(float(value) for value in values["mean"]),
            std=tuple(float(value) for value in values["std"]),
            fit=values["fit"],
            bits=values.get("bits", 16),
            crop_fraction=float(values.get("crop_fraction", 1)),
        )
        if len(set(info.class_names)) != len(info.class_names):
            raise ValueError("two classes with the same name")
        if len(info.class_names) < 2:
            raise ValueError("fewer than two classes")
        if not all(isinstance(name, str) and name.isprintable() for name in values["class_names"]):
            raise ValueError("a class name is not printable text")
        if len(info.mean) != len(info.std):
            raise ValueError("the numbers of means and standard deviations differ")
        if not all(math.isfinite(value) for value in info.mean):
            raise ValueError("a mean is not finite")
        if not all(math.isfinite(value) and value > 0 for value in info.std):
            raise ValueError("a standard deviation is not above 0")
        if info.fit not in get_args(Fit):
            raise ValueError("`fit` is neither pad nor crop")
        if not isinstance(info.bits, int) or info.bits not in get_args(Bits):
            raise ValueError(f"`bits` is none of {', '.join(map(str, get_args(Bits)))}")
        if not 0 < info.crop_fraction <= 1:
            raise ValueError("`crop_fraction` is not above 0, to 1")
        return info

    def to_values(self) -> dict[str, Any]:
        """Return what `from_values` reads, without `bits` and `crop_fraction` at their defaults."""
        values = asdict(self)
        if self.bits == 16:  # so that the bytes of other files stay as they were
            del values["bits"]
        if self.crop_fraction == 1:
            del values["crop_fraction"]
        return values


@dataclass(frozen=True)
class Split:
    """Images uint8 `[N, C, H, W]` and labels int64 `[N]`, memory-mapped, with their metadata."""

    images: "torch.Tensor"
    labels: "torch.Tensor"
    info: DatasetInfo

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width


class SplitWriter:
    """Writes a split of known size in chunks; see `open_split_writer`.

    The safetensors library can only write tensors that are in memory. The format: eight bytes with
    the header's length, the header (JSON, may end in spaces), the tensors one after the other.
    Source: https://huggingface.co/docs/safetensors.
    """

    def __init__(
        self, file: BinaryIO, count: int, shape: tuple[int, int, int], longest: DatasetInfo
    ) -> None:
        self._file = file
        self._count = count
        self._shape = shape
        # The statistics are known last, so the header is written last; room for the longest one.
        self._header_size = -(-len(self._header(longest)) // 8) * 8
        self._labels_offset = 8 + self._header_size
        self._images_offset = self._labels_offset + 8 * count
        self._written = 0

    def _header(self, info: DatasetInfo) -> bytes:
        labels, images = 8 * self._count, self._count * math.prod(self._shape)
        header = {
            "__metadata__": {METADATA_KEY: json.dumps(info.to_values(), sort_keys=True)},
            "labels": {"dtype": "I64", "shape": [self._count], "data_offsets": [0, labels]},
            "images": {
                "dtype": "U8",
                "shape": [self._count, *self._shape],
                "data_offsets": [labels, labels + images],
            },
        }
        return json.dumps(header, separators=(",", ":")).encode()

    def append(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Write images uint8 `[n, C, H, W]` and labels `[n]`, of any integer dtype."""
        if images.shape != (len(labels), *self._shape) or images.dtype != np.uint8:
            raise ValueError(f"{images.dtype} {images.shape} for {len(labels)} labels")
        self._file.seek(self._labels_offset + 8 * self._written)
        self._file.write(labels.astype("<i8").data)
        self._file.seek(self._images_offset + math.prod(self._shape) * self._written)
        self._file.write(np.ascontiguousarray(images).data)
        self._written += len(labels)

    def finish(self, info: DatasetInfo) -> None:
        """Write the header, after all images."""
        if self._written != self._count:
            raise ValueError(f"{self._written} images were written, expected {self._count}")
        header = self._header(info).ljust(self._header_size)
        self._file.seek(0)
        self._file.write(struct.pack("<Q", self._header_size) + header)


@contextmanager
def open_split_writer(
    path: Path,
    count: int,
    shape: tuple[int, int, int],
    dataset: str,
    class_names: tuple[str, ...],
    bits: Bits = 16,
    crop_fraction: float = 1.0,
) -> Iterator[SplitWriter]:
    """Open a split for writing: `append` all its images, then `finish` it.

    The file replaces `path` when the block ends without an error.

    Args:
        path: of the split.
        count: how many images it will have.
        shape: channels, height and width of an image.
        dataset: the data set's name.
        class_names: one per class.
        bits: as in `DatasetInfo`.
        crop_fraction: as in `DatasetInfo`.
    """
    widest = (0.12345678,) * shape[0]  # the statistics are rounded to eight digits
    with atomic_write(path) as file:
        longest = DatasetInfo(dataset, class_names, widest, widest, "crop", bits, crop_fraction)
        yield SplitWriter(file, count, shape, longest)


@dataclass(frozen=True)
class Sample:
    """Some images of a split, uint8 `[N, C, H, W]`, and their labels, int64 `[N]`, in NumPy."""

    images: np.ndarray
    labels: np.ndarray
    info: DatasetInfo


@contextmanager
def open_tensors(path: Path, framework: str, stage: str) -> Iterator[Any]:
    """Open a safetensors file; errors in the block become DataError.

    Args:
        path: the file.
        framework: `pt` or `numpy`.
        stage: the stage that writes the file.

    Raises:
        DataError: the file is missing, unreadable or damaged, or a value in it has the wrong type.
    """
    remedy = f"run `dvc repro --force {stage}` to recreate it"
    try:
        with safe_open(path, framework=framework) as file:
            yield file
    except FileNotFoundError:  # which safetensors also raises without permission
        if path.exists():
            raise DataError(f"{path}: cannot be read (permission denied); {remedy}") from None
        raise DataError(f"{path}: not found; run `dvc repro {stage}`") from None
    except OSError as error:  # safetensors' own, without an errno
        reason = "it is a folder" if path.is_dir() else one_line(error)
        raise DataError(f"{path}: cannot be read ({reason}); {remedy}") from None
    except SafetensorError as error:
        reason = f"not a valid safetensors file ({one_line(error)})"
        raise DataError(f"{path}: {reason}; {remedy}") from None
    # From this module's checks, or what Python, NumPy and torch raise on a header that is not ours.
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        cause = one_line(e if type(e) is ValueError else repr(e))
        reason = f"its header or a value in it is invalid ({cause})"
        raise DataError(f"{path}: {reason}; {remedy}") from None


def read_split(path: Path) -> Split:
    """Memory-map a split and check it.

    Raises:
        DataError: the file is missing, damaged, or has other tensors, shapes, dtypes or labels.
    """
    with open_tensors(path, "pt", "tensorize") as file:
        info = _check_header(file)
        images, labels = file.get_tensor("images"), file.get_tensor("labels")
        _check_labels(labels, info)
        return Split(images, labels, info)


def read_sample(path: Path, indices: Sequence[int]) -> Sample:
    """Read only the images at `indices` and their labels, without torch.

    Raises:
        DataError: the file is missing or damaged, or has no such images.
    """
    with open_tensors(path, "numpy", "tensorize") as file:
        info = _check_header(file)
        images, labels = file.get_slice("images"), file.get_slice("labels")
        empty = np.empty((0, *images.get_shape()[1:]), np.uint8)
        sample = Sample(
            np.concatenate([empty, *(images[index : index + 1] for index in indices)]),
            np.array([labels[index : index + 1][0] for index in indices], np.int64),
            info,
        )
        if indices:
            _check_labels(sample.labels, info)
        return sample


def read_labels(path: Path) -> np.ndarray:
    """Read all labels of a split, int64 `[N]`, without its images.

    Raises:
        DataError: the file is missing or damaged, or a label is out of range.
    """
    with open_tensors(path, "numpy", "tensorize") as file:
        info = _check_header(file)
        labels: np.ndarray = file.get_tensor("labels")
        _check_labels(labels, info)
        return labels


def _check_header(file: Any) -> DatasetInfo:
    """Check what can be checked before a tensor, of whatever size, is read."""
    names = sorted(file.keys())
    if names != ["images", "labels"]:
        raise ValueError(f"it holds the tensors {names}, not images and labels")
    shapes = []
    for name, dtype, dimensions in (("images", "U8", 4), ("labels", "I64", 1)):
        part = file.get_slice(name)
        shapes.append(part.get_shape())
        if part.get_dtype() != dtype or len(shapes[-1]) != dimensions:
            found = f"{part.get_dtype()} {shapes[-1]}"
            raise ValueError(f"`{name}` is {found}, not {dtype} of rank {dimensions}")
    (count, *shape), (labels,) = shapes
    if 0 in (count, *shape) or count != labels:
        raise ValueError(f"{(count, *shape)} images do not match {labels} labels")
    info = DatasetInfo.from_values(json.loads((file.metadata() or {})[METADATA_KEY]))
    if shape[0] != len(info.mean):
        raise ValueError(f"{shape[0]} channels but {len(info.mean)} statistics")
    return info


def _check_labels(labels: Any, info: DatasetInfo) -> None:
    low, high, highest = int(labels.min()), int(labels.max()), len(info.class_names) - 1
    if low < 0 or high > highest:
        raise ValueError(f"labels are from {low} to {high}, allowed are 0 to {highest}")
