"""The block `weights` of params.yaml."""

from typing import Annotated

from pydantic import Field, model_validator

from image_pipeline.common.schema import Block

Statistics = Annotated[list[float], Field(min_length=1, max_length=64)]


class WeightsParams(Block):
    """A file of weights of one's own, to start training from."""

    path: Annotated[str, Field(max_length=4096)]
    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
    license: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")]
    mean: Statistics
    std: Statistics

    @model_validator(mode="after")
    def _statistics_match(self) -> "WeightsParams":
        if len(self.mean) != len(self.std):
            raise ValueError("`mean` and `std` must have a number per channel each")
        if min(self.std) <= 0:
            raise ValueError("`std` must be above 0")
        return self
