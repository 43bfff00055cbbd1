"""The metadata of a model file: what is needed to rebuild the model and its preprocessing."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from image_pipeline.common.errors import DataError, one_line
from image_pipeline.tensors.tensor_files import METADATA_KEY, DatasetInfo, Sample, Split

REMEDY = "run `dvc repro --force train` to recreate it"
NETWORK_NAME = re.compile(r"[a-z][a-z0-9_]*")
SHA256 = re.compile(r"[0-9a-f]{64}")
MAX_VALUES = 1 << 30  # of an image
MAX_OPTIONS = 1 << 16  # characters

Shape = tuple[int, int, int]  # channels, height, width


@dataclass(frozen=True)
class OodThresholds:
    """Beyond which an image counts as out-of-distribution; see `image_pipeline.modeling.ood`.

    Attributes:
        logit: lower bound of the largest logit.
        distance: upper bound of the distance from the mean training image.
    """

    logit: float
    distance: float

    def __post_init__(self) -> None:
        values = self.logit, self.distance
        if not all(isinstance(value, float) and math.isfinite(value) for value in values):
            raise ValueError("its out-of-distribution thresholds are not finite numbers")


@dataclass(frozen=True)
class WeightsProvenance:
    """The published weights that training started from.

    Attributes:
        name: what they are.
        source: address of the page that describes them; empty if there is none.
        license: its name.
        sha256: of their file.
    """

    name: str
    source: str
    license: str
    sha256: str

    def __post_init__(self) -> None:
        if not all(isinstance(value, str) and value.isprintable() for value in vars(self).values()):
            raise ValueError("what it says of its initial weights is not printable text")


@dataclass(frozen=True)
class ModelCard:
    """A model's architecture, preprocessing and training data.

    Attributes:
        network: name of its file in `image_pipeline.models`.
        source: SHA-256 of that file at training time.
        input_shape: channels, height and width of an image.
        data: class names, and the statistics that normalise an image.
        augmentation: the block `train.augmentation` of params.yaml at training time.
        options: keyword arguments of the network's constructor.
        first_layer: name of the weights that can be drawn as images; see `networks.first_layer`.
        ood: thresholds beyond which an image counts as out-of-distribution; None: never.
        versions: what PyTorch records of a layer's state, by the layer's name: its version, by
            which newer code migrates it. Only layers whose state is not of version 1.
        weights: that training started from; None: random ones.
    """

    network: str
    source: str
    input_shape: Shape
    data: DatasetInfo
    augmentation: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    first_layer: str | None = None
    ood: OodThresholds | None = None
    versions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    weights: WeightsProvenance | None = None

    def check_fits(self, path: Path, split: Split | Sample) -> None:
        """Check that the split read from `path` has the model's image shape and classes.

        Raises:
            DataError: it does not.
        """
        shape = tuple(split.images.shape[1:])
        if shape != self.input_shape:
            raise DataError(
                f"{path}: images of shape {shape}, but the model expects "
                f"{self.input_shape}; run `dvc repro`, so that both come from the same data"
            )
        if split.info.class_names != self.data.class_names:
            raise DataError(
                f"{path}: its classes differ from the model's; run `dvc repro`, so that both come "
                "from the same data"
            )

    def to_metadata(self) -> dict[str, str]:
        """Return the card as metadata of a safetensors file, under a single key."""
        values = asdict(self) | {"data": self.data.to_values()}
        # Files of models that have none keep the bytes they always had.
        if not self.versions:
            del values["versions"]
        if self.weights is None:
            del values["weights"]
        return {METADATA_KEY: json.dumps(values, sort_keys=True)}

    @classmethod
    def from_metadata(cls, path: Path, metadata: dict[str, str] | None) -> "ModelCard":
        """Read the card of the model at `path`.

        Raises:
            DataError: it is missing or invalid.
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
                versions={
                    layer: dict(recorded) for layer, recorded in values.get("versions", {}).items()
                },
                weights=WeightsProvenance(**weights)
                if (weights := values.get("weights"))
                else None,
            )
            if not NETWORK_NAME.fullmatch(card.network) or not SHA256.fullmatch(card.source):
                raise ValueError("invalid network name or hash")
            if len(json.dumps(values["options"])) > MAX_OPTIONS:
                raise ValueError("too many options")
            if not isinstance(card.first_layer, str | None):
                raise TypeError("its first layer is not a name")
            if len(card.data.mean) != channels:
                raise ValueError(f"{channels} channels, but {len(card.data.mean)} means")
            if min(card.input_shape) < 1 or math.prod(card.input_shape) > MAX_VALUES:
                raise ValueError("image size out of bounds")
        except (
            ArithmeticError,
            AttributeError,
            KeyError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            problem = one_line(repr(error))
            raise DataError(f"{path}: invalid model metadata ({problem}); {REMEDY}") from None
        return card
