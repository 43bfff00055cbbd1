"""The block `train.augmentation` of params.yaml."""

from typing import Annotated

from pydantic import Field

from image_pipeline.common.schema import Block, file_name

WARPS = ("rotation", "scale", "shear", "translation", "elastic")
AUGMENTATION_AMOUNTS = (*WARPS, "horizontal_flip", "crop_padding", "cutout")
NO_CUSTOM = "none"  # of `train.augmentation.custom`


class AugmentationParams(Block):
    """Augmentation of the training images.

    The first five are bounds of draws from a uniform distribution between minus and plus the value.
    """

    rotation: Annotated[float, Field(ge=0, le=180)]
    scale: Annotated[float, Field(ge=0, le=0.9)]
    shear: Annotated[float, Field(ge=0, le=60)]
    translation: Annotated[float, Field(ge=0, le=1)]
    elastic: Annotated[float, Field(ge=0, le=1)]
    images_per_draw: Annotated[int, Field(ge=1, le=4096)]
    horizontal_flip: Annotated[float, Field(ge=0, le=1)]
    crop_padding: Annotated[int, Field(ge=0, le=256)]
    cutout: Annotated[int, Field(ge=0, le=1024)]
    custom: Annotated[str, file_name("augmentations")]

    @property
    def enabled(self) -> bool:
        """Whether anything is augmented."""
        built_in = any(getattr(self, amount) for amount in AUGMENTATION_AMOUNTS)
        return built_in or self.custom != NO_CUSTOM
