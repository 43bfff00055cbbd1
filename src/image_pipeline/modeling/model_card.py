"""What it takes to rebuild a model and its preprocessing; kept in the model file's metadata."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from image_pipeline.common.errors import DataError, one_line
from image_pipeline.tensors.tensor_files import METADATA_KEY, DatasetInfo, Sample, Split

REMEDY = "run `dvc repro --force train` to make it anew"
NETWORK_NAME = re.compile(r"[a-z][a-z0-9_]*")
SHA256 = re.compile(r"[0-9a-f]{64}")
MAX_VALUES = 1 << 30  # of an image
MAX_OPTIONS = 1 << 16  # characters

Shape = tuple[int, int, int]  # channels, height, width


@dataclass(frozen=True)
class OodThresholds:
    """Beyond which an image is unlike the training images; see `image_pipeline.modeling.ood`.

    Attributes:
        logit: the least that its largest logit may be.
        distance: the most that it may be away from the mean training image.
    """

    logit: float
    distance: float

    def __post_init__(self) -> None:
        values = self.logit, self.distance
        if not all(isinstance(value, float) and math.isfinite(value) for value in values):
            raise ValueError("its out-of-distribution thresholds are not finite numbers")


@dataclass(frozen=True)
class ModelCard:
    """The facts about a model that its weights do not tell.

    Attributes:
        network: name of its file in `image_pipeline.models`.
        source: SHA-256 of that file when the model was trained.
        input_shape: channels, height and width of an image.
        data: class names, and the statistics that normalise an image.
        augmentation: how the training images were augmented: the block `train.augmentation`.
        options: keyword arguments of the network's constructor.
        first_layer: name of the weights that look at the pixels first, where there are such.
        ood: thresholds beyond which an image counts as out-of-distribution; None: never.
    """

    network: str
    source: str
    input_shape: Shape
    data: DatasetInfo
    augmentation: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    first_layer: str | None = None
    ood: OodThresholds | None = None

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
        return {METADATA_KEY: json.dumps(asdict(self), sort_keys=True)}

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
                network=values["network"],
                source=values["source"],
                input_shape=(channels, height, width),
                data=DatasetInfo.from_values(values["data"]),
                augmentation=dict(values["augmentation"]),
                options=dict(values["options"]),
                first_layer=values["first_layer"],
                ood=values["ood"] and OodThresholds(**values["ood"]),
            )
            if not NETWORK_NAME.fullmatch(card.network) or not SHA256.fullmatch(card.source):
                raise ValueError("its network is not named")
            if len(json.dumps(values["options"])) > MAX_OPTIONS:
                raise ValueError("its options are too many")
            if not isinstance(card.first_layer, str | None):
                raise TypeError("its first layer is not named")
            if len(card.data.mean) != channels:
                raise ValueError(f"{channels} channels but {len(card.data.mean)} statistics")
            if min(card.input_shape) < 1 or math.prod(card.input_shape) > MAX_VALUES:
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
