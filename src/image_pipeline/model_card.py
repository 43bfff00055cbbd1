"""What it takes to rebuild a model and its preprocessing; kept in the model file's metadata."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from image_pipeline.errors import DataError, ParamsError, one_line
from image_pipeline.params import MAX_BLOCKS, MAX_HIDDEN_LAYERS, AugmentationParams
from image_pipeline.tensor_files import METADATA_KEY, Description, Sample, Split

REMEDY = "run `dvc repro --force train` to make it anew"
MAX_WEIGHTS_PER_LAYER = 1 << 30
KERNEL, STRIDE = 5, 2  # of every convolution block: no padding, no pooling

Shape = tuple[int, int, int]  # channels, height, width


def block_sizes(shape: Shape, channels: Sequence[int]) -> list[Shape]:
    """Return the shape of the images and, after it, of each convolution block's output.

    A side is 0 or below where the images are too small for so many blocks.
    """
    sizes = [shape]
    for filters in channels:
        _, height, width = sizes[-1]
        sizes.append((filters, _side_after(height), _side_after(width)))
    return sizes


def _side_after(side: int) -> int:
    return (side - KERNEL) // STRIDE + 1


@dataclass(frozen=True)
class ModelCard:
    """The facts about a model that its weights do not tell.

    Attributes:
        input_shape: channels, height and width of an image.
        hidden_sizes: units of each hidden layer.
        data: class names, and the statistics that normalise an image.
        augmentation: what the training images went through.
        channels: filters of each convolution block; none in a multilayer perceptron.
    """

    input_shape: Shape
    hidden_sizes: tuple[int, ...]
    data: Description
    augmentation: AugmentationParams
    channels: tuple[int, ...] = ()

    @property
    def layer_sizes(self) -> list[int]:
        """Values per image that enter each dense layer, and the number of classes."""
        channels, height, width = block_sizes(self.input_shape, self.channels)[-1]
        return [channels * height * width, *self.hidden_sizes, len(self.data.class_names)]

    def check_sizes(self, path: Path) -> None:
        """Check that `path` asks for layers that these images can have and a machine can hold.

        Raises:
            ParamsError: the images are too small for so many convolution blocks, or a dense layer
                has too many weights.
        """
        self._check_blocks(path)
        for before, after in pairwise(self.layer_sizes):
            if before * after > MAX_WEIGHTS_PER_LAYER:
                raise ParamsError(
                    f"{path}: train.hidden_sizes: the layer from {before:,} to {after:,} values "
                    f"would have {before * after:,} weights, {MAX_WEIGHTS_PER_LAYER:,} at most; "
                    "lower one of the two"
                )

    def _check_blocks(self, path: Path) -> None:
        side, blocks, most = min(self.input_shape[1:]), len(self.channels), 0
        while (side := _side_after(side)) > 0:
            most += 1
        if blocks <= most:
            return
        needed = 1
        for _ in self.channels:
            needed = (needed - 1) * STRIDE + KERNEL
        _, height, width = self.input_shape
        fewer = f"take {most} at most, or " if most else ""
        raise ParamsError(
            f"{path}: train.channels: {blocks} convolution blocks need images of at least "
            f"{needed}x{needed} pixels, these have {height}x{width}; {fewer}set train.model to mlp"
        )

    def check_fits(self, path: Path, split: Split | Sample) -> None:
        """Check that the model can be asked about the split read from `path`.

        Raises:
            DataError: its images have another shape, or its classes are others.
        """
        if split.shape != self.input_shape:
            raise DataError(
                f"{path}: images of shape {split.shape}, the model takes {self.input_shape}; "
                "run `dvc repro`, so that both come from the same data"
            )
        if split.description.class_names != self.data.class_names:
            raise DataError(
                f"{path}: other classes than the model's; run `dvc repro`, so that both come from "
                "the same data"
            )

    def to_metadata(self) -> dict[str, str]:
        """Return the card as the one metadata key of a safetensors file."""
        values = asdict(self) | {"augmentation": self.augmentation.model_dump()}
        if self.channels:
            values["model"] = "cnn"
        else:
            del values["channels"]  # a perceptron's card is as it was before there were others
        return {METADATA_KEY: json.dumps(values, sort_keys=True)}

    @classmethod
    def from_metadata(cls, path: Path, metadata: dict[str, str] | None) -> "ModelCard":
        """Read the card of the model at `path`.

        Raises:
            DataError: there is none, or it is not a card.
        """
        try:
            values: dict[str, Any] = json.loads((metadata or {})[METADATA_KEY])
            channels, height, width = (int(size) for size in values["input_shape"])
            card = cls(
                input_shape=(channels, height, width),
                hidden_sizes=tuple(int(size) for size in values["hidden_sizes"]),
                data=Description.from_values(values["data"]),
                augmentation=AugmentationParams.model_validate(values["augmentation"]),
                channels=tuple(int(size) for size in values.get("channels", ())),
            )
            model = values.get("model", "mlp")
            if model != ("cnn" if card.channels else "mlp"):
                raise ValueError(f"model {model!r} of {len(card.channels)} convolution blocks")
            if len(card.channels) > MAX_BLOCKS:
                raise ValueError(f"{len(card.channels)} convolution blocks")
            if len(card.hidden_sizes) > MAX_HIDDEN_LAYERS:
                raise ValueError(f"{len(card.hidden_sizes)} hidden layers")
            blocks = block_sizes(card.input_shape, card.channels)
            sizes = [*(side for block in blocks for side in block), *card.layer_sizes]
            products = [before * after for before, after in pairwise(card.layer_sizes)]
            filters = pairwise([channels, *card.channels])
            products += [before * after * KERNEL * KERNEL for before, after in filters]
            if len(card.data.mean) != channels:
                raise ValueError(f"{channels} channels but {len(card.data.mean)} statistics")
            if min(sizes) < 1 or max(products) > MAX_WEIGHTS_PER_LAYER:
                raise ValueError("its sizes are out of bounds")
        except (
            ArithmeticError,
            AttributeError,
            KeyError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            problem = one_line(repr(error))
            raise DataError(f"{path}: its card is unreadable ({problem}); {REMEDY}") from None
        return card
