"""The block `export` of params.yaml."""

from typing import Annotated

from pydantic import Field

from image_pipeline.common.schema import Block

LICENSE = r"^[a-z0-9][a-z0-9.-]{0,63}$"


class ExportParams(Block):
    """What is written for others."""

    onnx: bool
    license: Annotated[str, Field(pattern=LICENSE)]
