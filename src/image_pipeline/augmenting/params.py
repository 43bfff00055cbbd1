"""The block `train.augmentation` of params.yaml."""

from typing import Annotated

from pydantic import Field

from image_pipeline.common.errors import ParamsError
from image_pipeline.common.paths import PARAMS
from image_pipeline.common.schema import Block, file_name

WARPS = ("rotation", "scale", "shear", "translation", "elastic")
COLOURS = ("brightness", "contrast", "saturation", "hue")
AUGMENTATION_AMOUNTS = (*WARPS, "horizontal_flip", "crop_padding", "cutout", *COLOURS)
NO_CUSTOM = "none"  # of `train.augmentation.custom`


class AugmentationParams(Block):
    """Augmentation of the training images.

    The first five are bounds of draws from a uniform distribution between minus and plus the value.
    What has a default is not in the model file of a network that was trained without it.
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
    min_crop_scale: Annotated[float, Field(gt=0, le=1)] = 1.0
    brightness: Annotated[float, Field(ge=0, le=1)] = 0.0
    contrast: Annotated[float, Field(ge=0, le=1)] = 0.0
    saturation: Annotated[float, Field(ge=0, le=1)] = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    custom: Annotated[str, file_name("augmentations")]

    @property
    def enabled(self) -> bool:
        """Whether anything is augmented."""
        built_in = any(getattr(self, amount) for amount in AUGMENTATION_AMOUNTS)
        return built_in or self.min_crop_scale < 1 or self.custom != NO_CUSTOM

    def check_channels(self, channels: int) -> None:
        """Check that images of so many channels have the colours to change.

        Raises:
            ParamsError: they have not.
        """
        for name in ("saturation", "hue"):
            if getattr(self, name) and channels != 3:
                raise ParamsError(
                    f"{PARAMS}: train.augmentation.{name}: {getattr(self, name)} needs images with "
                    f"3 channels, but these have {channels}; set it to 0"
                )
