"""From an image file to the network's input, in the way that the model card describes.

Models of MNIST-like digits also accept photographs and scans of a digit, which are converted to
MNIST's format first.
"""

import string
from dataclasses import dataclass
from typing import Literal

from image_pipeline.common.errors import ParamsError
from image_pipeline.modeling.model_card import ModelCard
from image_pipeline.prediction.mnist_format import is_mnist_format, to_mnist_format
from image_pipeline.reading.pixels import PixelSettings, decode, decode_whole

Mode = Literal["auto", "mnist", "as-trained"]
AppliedMode = Literal["mnist", "as-trained"]

DIGIT_DATA_SETS = frozenset({"mnist", "qmnist", "emnist", "digits"})  # all in MNIST's format
DIGITS = tuple(string.digits)
MNIST_SHAPE = (1, 28, 28)
MAX_SIDE = 1024  # pixels; larger photographs are reduced first


@dataclass(frozen=True)
class Preprocessed:
    """An image as a model takes it.

    Attributes:
        pixels: uint8 `[C, H, W]`, as bytes.
        mode: that was applied.
        doubts: why its class may mean nothing, in words.
        left_out: what else the image shows, in words.
        joined: whether the digit is of several marks, joined as its strokes.
    """

    pixels: bytes
    mode: AppliedMode
    doubts: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    joined: bool = False


@dataclass(frozen=True)
class Preprocessor:
    """Turns an image file into the pixels that a model takes.

    Attributes:
        pixels: shape of the model's images, and how images of another shape are fitted to it.
        mode: `as-trained` processes an image as `tensorize` processes the images of a folder;
            `mnist` converts a digit, dark or light, of any size and position, to MNIST's format;
            `auto` does that unless the image is in that format already.
        deskew: whether `mnist` also shears a slanted digit upright.
    """

    pixels: PixelSettings
    mode: Mode
    deskew: bool = False

    @classmethod
    def for_model(
        cls, card: ModelCard, mode: Mode = "auto", *, deskew: bool = False
    ) -> "Preprocessor":
        """Return the preprocessor for a model; `auto` means `as-trained` if it is not of digits.

        Raises:
            ParamsError: the mode is `mnist` but the model was not trained on such digits; or
                the model's images are not square, or not of 1 or 3 channels.
        """
        channels, height, width = card.input_shape
        if channels not in (1, 3) or height != width:
            raise ParamsError(
                f"the model takes images of shape {card.input_shape}; predict supports square "
                "images with 1 or 3 channels only"
            )
        has_digits = card.data.dataset in DIGIT_DATA_SETS and card.data.class_names == DIGITS
        if not (has_digits and card.input_shape == MNIST_SHAPE):
            if mode == "mnist":
                raise ParamsError(
                    f"--prepare mnist: the model was trained on {card.data.dataset}, not on digits "
                    "in MNIST's format; leave --prepare out"
                )
            mode = "as-trained"
        data = card.data
        pixels = PixelSettings(channels, height, data.fit, data.bits, data.crop_fraction)
        return cls(pixels, mode, deskew)

    def __call__(self, content: bytes) -> Preprocessed:
        """Return an image file's pixels, and how they were made.

        To be called in a `strict_warnings` block.

        Raises:
            Exception: as `decode` does.
        """
        if self.mode == "as-trained":
            return Preprocessed(decode(content, self.pixels)[0], "as-trained")
        image = decode_whole(content, MAX_SIDE)
        if self.mode == "auto" and is_mnist_format(image):
            return Preprocessed(image.tobytes(), "as-trained")
        digit = to_mnist_format(image, deskew=self.deskew)
        found = digit.doubts, digit.left_out, digit.joined
        return Preprocessed(digit.pixels.tobytes(), "mnist", *found)
