"""The block `export` of params.yaml."""

from typing import Annotated

from pydantic import Field

from image_pipeline.common.schema import Block

LICENSE = r"^[a-z0-9][a-z0-9.-]{0,63}$"


class ExportParams(Block):
    """Whether to write an ONNX file, and the model's licence."""

    onnx: bool
    license: Annotated[str, Field(pattern=LICENSE)]
