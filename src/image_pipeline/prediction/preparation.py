"""An image file as a network wants it: the model's card says how its training images were made.

Beside that, a model of MNIST's digits can be given photographs and scans of digits, which are
brought to MNIST's form first.
"""

import string
from dataclasses import dataclass
from typing import Literal

import numpy as np

from image_pipeline.common.errors import PipelineError
from image_pipeline.datasets.image_files.pixels import PixelSettings, decode, decode_whole
from image_pipeline.modeling.model_card import ModelCard
from image_pipeline.prediction.mnist_form import is_in_mnist_form, to_mnist

Prepare = Literal["auto", "mnist", "as-trained"]
Prepared = Literal["mnist", "as-trained"]

DIGIT_DATA_SETS = frozenset({"mnist", "qmnist", "emnist", "digits"})  # in MNIST's form, all of them
DIGITS = tuple(string.digits)
MNIST_SHAPE = (1, 28, 28)
LONGEST = 1024  # pixels of a photograph's longer side that are looked at


class PreparationError(PipelineError):
    """A preparation that a model's images do not allow."""

    exit_code = 2


@dataclass(frozen=True)
class Preparation:
    """What is done to an image file.

    Attributes:
        pixels: the shape of the model's images, and how others are fitted into it.
        how: `as-trained` treats an image as `tensorize` treats those of a folder; `mnist` brings a
            digit, dark or light, of any size and place, to MNIST's form; `auto` does so where the
            image is not in that form already.
        deskew: whether a digit on its way to MNIST's form is made to stand upright.
    """

    pixels: PixelSettings
    how: Prepare
    deskew: bool = False

    @classmethod
    def of_model(
        cls, card: ModelCard, how: Prepare = "auto", *, deskew: bool = False
    ) -> "Preparation":
        """Return the preparation for a model.

        Raises:
            PreparationError: the model is none of MNIST's digits, but its form is asked for; or its
                images are of a shape that no image file has.
        """
        channels, height, width = card.input_shape
        if channels not in (1, 3) or height != width:
            raise PreparationError(
                f"the model takes images of shape {card.input_shape}; predict makes square images "
                "of 1 or 3 channels"
            )
        if not is_of_digits(card):
            if how == "mnist":
                raise PreparationError(
                    f"--prepare mnist: the model was trained on {card.data.dataset}, not on "
                    "MNIST's digits or others like them; leave --prepare out"
                )
            how = "as-trained"
        return cls(PixelSettings(channels, height, card.data.fit), how, deskew)

    def __call__(self, content: bytes) -> tuple[bytes, Prepared]:
        """Return an image's pixels, uint8 `[C, H, W]` as bytes, and what was done to it.

        To be called in a `quiet_but_wary` block.

        Raises:
            Exception: as `decode` does.
        """
        if self.how == "as-trained":
            return decode(content, self.pixels), "as-trained"
        image = decode_whole(content, LONGEST)
        if self.how == "auto" and is_in_mnist_form(image):
            return image.tobytes(), "as-trained"
        return np.ascontiguousarray(to_mnist(image, deskew=self.deskew)).tobytes(), "mnist"


def is_of_digits(card: ModelCard) -> bool:
    """Tell whether a model was trained on digits in MNIST's form."""
    of_digits = card.data.dataset in DIGIT_DATA_SETS and card.data.class_names == DIGITS
    return of_digits and card.input_shape == MNIST_SHAPE
