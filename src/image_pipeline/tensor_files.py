"""The tensorized splits: one safetensors file each, uint8 images and int64 labels.

A file holds `images` uint8 `[N, C, H, W]` and `labels` int64 `[N]`. Class names and normalisation
statistics are in one JSON metadata key: safetensors writes its keys in random order, so a second
one would change the file's hash from run to run.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from image_pipeline.errors import DataError
from image_pipeline.files import write_bytes

if TYPE_CHECKING:
    import torch

METADATA_KEY = "image_pipeline"
REMEDY = "run `dvc repro --force tensorize` to make it anew"


@dataclass(frozen=True)
class Description:
    """What a split's numbers mean.

    Attributes:
        dataset: the data set's name.
        class_names: the label `i` stands for `class_names[i]`.
        mean, std: of the training split's pixels, per channel, in units of a full pixel (0 to 1).
    """

    dataset: str
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "Description":
        """Make a description from parsed JSON.

        Raises:
            KeyError, TypeError, ValueError: a value is missing or cannot be what it should be.
        """
        description = cls(
            dataset=str(values["dataset"]),
            class_names=tuple(str(name) for name in values["class_names"]),
            mean=tuple(float(value) for value in values["mean"]),
            std=tuple(float(value) for value in values["std"]),
        )
        if len(description.class_names) < 2:
            raise ValueError("fewer than two classes")
        if len(description.mean) != len(description.std):
            raise ValueError("means and standard deviations do not pair")
        if not all(math.isfinite(value) for value in description.mean):
            raise ValueError("a mean is not finite")
        if not all(math.isfinite(value) and value > 0 for value in description.std):
            raise ValueError("a standard deviation is not above 0")
        return description


@dataclass(frozen=True)
class Split:
    """Images uint8 `[N, C, H, W]` and labels int64 `[N]`, memory-mapped, with their description."""

    images: "torch.Tensor"
    labels: "torch.Tensor"
    description: Description

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width


def write_split(
    path: Path, images: np.ndarray, labels: np.ndarray, description: Description
) -> None:
    """Write a split: images uint8 `[N, C, H, W]`, labels int64 `[N]`."""
    metadata = {METADATA_KEY: json.dumps(asdict(description), sort_keys=True)}
    write_bytes(path, save({"images": images, "labels": labels}, metadata))


def read_split(path: Path) -> Split:
    """Memory-map a split and check that it is what a tensorized split must be.

    Raises:
        DataError: the file is missing, torn, or has other tensors, shapes, types or labels.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = sorted(file.keys())
            if names != ["images", "labels"]:
                raise _broken(path, f"it holds the tensors {names}, not images and labels")
            for name, dtype, dimensions in (("images", "U8", 4), ("labels", "I64", 1)):
                part = file.get_slice(name)
                if part.get_dtype() != dtype or len(part.get_shape()) != dimensions:
                    found = f"{part.get_dtype()} {part.get_shape()}"
                    raise _broken(path, f"`{name}` is {found}, not {dtype} of rank {dimensions}")
            values = json.loads((file.metadata() or {})[METADATA_KEY])
            description = Description.from_values(values)
            images, labels = file.get_tensor("images"), file.get_tensor("labels")
    except FileNotFoundError:
        raise DataError(f"{path}: not found; run `dvc repro tensorize`") from None
    except SafetensorError as error:
        raise _broken(path, f"it is no valid safetensors file ({error})") from None
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _broken(path, f"its description is unreadable ({error!r})") from None
    if 0 in images.shape or len(images) != len(labels):
        raise _broken(path, f"{tuple(images.shape)} images do not fit {len(labels)} labels")
    if images.shape[1] != len(description.mean):
        raise _broken(path, f"{images.shape[1]} channels but {len(description.mean)} statistics")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(description.class_names):
        allowed = len(description.class_names) - 1
        raise _broken(path, f"labels run from {low} to {high}, allowed is 0 to {allowed}")
    return Split(images, labels, description)


def read_sample(path: Path, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Read the images at `indices` and their labels alone, without torch.

    Returns:
        uint8 `[len(indices), C, H, W]` and int64 `[len(indices)]`.

    Raises:
        DataError: the file is missing or torn, or has no such images.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            images, labels = file.get_slice("images"), file.get_slice("labels")
            empty = np.empty((0, *images.get_shape()[1:]), np.uint8)
            return (
                np.concatenate([empty, *(images[index : index + 1] for index in indices)]),
                np.array([labels[index : index + 1][0] for index in indices], np.int64),
            )
    except FileNotFoundError:
        raise DataError(f"{path}: not found; run `dvc repro tensorize`") from None
    except (SafetensorError, IndexError, TypeError, ValueError) as error:
        raise _broken(path, f"images cannot be read from it ({error})") from None


def count_images(path: Path) -> int:
    """Return how many images the split at `path` holds, without reading them.

    Raises:
        DataError: the file is missing or torn.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return int(file.get_slice("images").get_shape()[0])
    except FileNotFoundError:
        raise DataError(f"{path}: not found; run `dvc repro tensorize`") from None
    except (SafetensorError, IndexError) as error:
        raise _broken(path, f"it holds no images ({error})") from None


def _broken(path: Path, reason: str) -> DataError:
    return DataError(f"{path}: {reason}; {REMEDY}")
