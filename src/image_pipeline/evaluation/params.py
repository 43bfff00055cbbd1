"""The block `evaluate` of params.yaml."""

from typing import Annotated

from pydantic import Field

from image_pipeline.common.schema import Block


class EvaluateParams(Block):
    """How the model is evaluated."""

    batch_size: Annotated[int, Field(ge=1, le=1_000_000)]
    calibration_bins: Annotated[int, Field(ge=2, le=1000)]
