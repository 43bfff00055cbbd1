"""The block `plot` of params.yaml."""

from typing import Annotated

from pydantic import Field

from image_pipeline.common.schema import Block, Seed


class PlotParams(Block):
    """Resolution of the plots, and the number of images in them."""

    dpi: Annotated[int, Field(ge=50, le=400)]
    mistakes: Annotated[int, Field(ge=1, le=100)]
    samples: Annotated[int, Field(ge=1, le=100)]
    seed: Seed
