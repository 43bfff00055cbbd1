"""The block `tensorize` of params.yaml."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticKnownError

from image_pipeline.common.schema import Block, Fit, Seed


def _whole_number(value: object) -> object:
    """Reject `true` and 1.0, which equal 1, in a choice among integers."""
    if isinstance(value, (bool, float)):
        raise PydanticKnownError("int_type")
    return value


class TensorizeFolderParams(Block):
    """How the images of the data set `folder` are decoded and split."""

    channels: Annotated[Literal[1, 3], BeforeValidator(_whole_number)]
    image_size: Annotated[int, Field(ge=4, le=1024)]
    fit: Fit
    crop_fraction: Annotated[float, Field(ge=0.1, le=1)]
    test_fraction: Annotated[float, Field(ge=0.01, le=0.5)]
    unreadable: Literal["error", "skip"]

    @model_validator(mode="after")
    def _crop_has_a_fraction(self) -> "TensorizeFolderParams":
        if self.fit == "pad" and self.crop_fraction < 1:
            raise ValueError("a crop_fraction below 1 needs `fit: crop`")
        return self


class TensorizeParams(Block):
    """How the training images are split."""

    validation_fraction: Annotated[float, Field(ge=0.01, le=0.5)]
    seed: Seed
    emnist_split: Literal["byclass", "bymerge", "balanced", "letters", "digits", "mnist"]
    folder: TensorizeFolderParams
