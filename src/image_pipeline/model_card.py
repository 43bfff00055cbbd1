"""What it takes to rebuild a model and its preprocessing; kept in the model file's metadata."""

import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from image_pipeline.errors import DataError, one_line
from image_pipeline.params import MAX_HIDDEN_LAYERS, AugmentationParams
from image_pipeline.tensor_files import METADATA_KEY, Description, Sample, Split

REMEDY = "run `dvc repro --force train` to make it anew"
MAX_WEIGHTS_PER_LAYER = 1 << 30


@dataclass(frozen=True)
class ModelCard:
    """The facts about a model that its weights do not tell.

    Attributes:
        input_shape: channels, height and width of an image.
        hidden_sizes: units of each hidden layer.
        data: class names, and the statistics that normalise an image.
        augmentation: what the training images went through.
    """

    input_shape: tuple[int, int, int]
    hidden_sizes: tuple[int, ...]
    data: Description
    augmentation: AugmentationParams

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
            )
            sizes = [channels * height * width, *card.hidden_sizes, len(card.data.class_names)]
            products = [before * after for before, after in pairwise(sizes)]
            if not 1 <= len(card.hidden_sizes) <= MAX_HIDDEN_LAYERS:
                raise ValueError(f"{len(card.hidden_sizes)} hidden layers")
            if len(card.data.mean) != channels:
                raise ValueError(f"{channels} channels but {len(card.data.mean)} statistics")
            if min(channels, height, width, *sizes) < 1 or max(products) > MAX_WEIGHTS_PER_LAYER:
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
