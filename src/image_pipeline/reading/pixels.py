"""Decode an untrusted image file of any size and colour to pixels of a fixed shape.

The same bits on every x86-64 machine. Decoders: PNG, GIF, BMP, PPM and TIFF are lossless; the SIMD
code of libjpeg-turbo gives the same bits as its plain C for the accurate inverse transform,
Pillow's default, and so do the decoders of WebP, JPEG 2000, AVIF and HEIC; tests compare them in an
emulator and with libjpeg-turbo's own switches. Resampling: Pillow computes in integers
(`ImagingResampleHorizontal_8bpc` in `Resample.c`), with weights that are sums and products of
doubles, rounded once. That holds for the bicubic filter: a Lanczos filter would call the C
library's sine, whose last bit may depend on the processor.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image

from image_pipeline.common.schema import Bits, Fit
from image_pipeline.reading.formats import FORMATS, open_image
from image_pipeline.reading.orientation import upright
from image_pipeline.reading.sixteen_bits import to_8_bits

BACKGROUND = 255  # white, behind transparent pixels
MIN_CONTRAST = 48  # of 255, with which something can be seen on it
REDUCING_GAP = 3.0  # block averages down to this multiple of the target size, then resampling
GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")


@dataclass(frozen=True)
class PixelSettings:
    """The shape that every image is brought to.

    Attributes:
        channels: 1 (grey) or 3 (red, green, blue).
        size: pixels on a side of the square.
        fit: `pad` keeps the whole image and adds a border; `crop` keeps the centre that fills the
            square.
        bits: of the values of 16-bit images; see `image_pipeline.reading.sixteen_bits`.
        crop_fraction: share of the shorter side that `crop` keeps; 1 fills the square.
    """

    channels: int
    size: int
    fit: Fit
    bits: Bits = 16
    crop_fraction: float = 1.0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.channels, self.size, self.size

    @property
    def bytes_per_image(self) -> int:
        """Bytes of a decoded image."""
        return self.channels * self.size * self.size


def decode(content: bytes, settings: PixelSettings) -> tuple[bytes, int | None]:
    """Decode an image file to pixels of shape `settings.shape`, as bytes.

    Takes the first frame and applies its EXIF orientation; transparent pixels are put on white, and
    16-bit values scaled to 8 bits.

    Call it in a `strict_warnings` block.

    Returns:
        The pixels; and the highest value of an image whose file allows 16 bits, else None.

    Raises:
        MemoryError: out of memory.
        Exception: of any kind, from Pillow's decoders: the image is unreadable.
    """

    def min_size(size: tuple[int, int]) -> tuple[int, int]:
        width, height = _scaled(size, settings)
        scale = 4 / settings.crop_fraction
        return math.ceil(scale * width), math.ceil(scale * height)

    image, highest = _open_upright(content, settings.channels, settings.bits, min_size)
    return b"".join(band.tobytes() for band in _fit(image, settings).split()), highest


def decode_whole(content: bytes, max_side: int) -> np.ndarray:
    """Decode an image file like `decode`, but keep its proportions.

    Values of 16-bit images have the fewest bits that hold them. Transparent pixels are put on black
    if nothing could be seen on white.

    Returns:
        uint8 `[H, W]` if every pixel is grey, else `[H, W, 3]`; downscaled if its longer side has
        more than `max_side` pixels.
    """

    def min_size(size: tuple[int, int]) -> tuple[int, int]:
        width, height = (-(-side * max_side // max(size)) for side in size)
        return width, height

    image, _ = _open_upright(content, None, None, min_size, contrast=True)
    image.thumbnail((max_side, max_side), Image.Resampling.BICUBIC, REDUCING_GAP)
    pixels = np.asarray(image)
    grey = pixels.ndim == 2 or bool((pixels == pixels[..., :1]).all())
    return pixels[..., 0] if grey and pixels.ndim == 3 else pixels


def has_more_frames(content: bytes) -> bool:
    """Whether a decodable GIF, TIFF, WebP, AVIF or HEIC file holds more than its first frame."""
    if content.startswith((b"\x89PNG", b"\xff\xd8", b"BM")):
        return False
    try:
        with open_image(content) as image:
            return bool(getattr(image, "is_animated", False))
    except Exception:  # a frame after the first is damaged
        return True


def _open_upright(
    content: bytes,
    channels: int | None,
    bits: Bits | None,
    min_size: Callable[[tuple[int, int]], tuple[int, int]],
    *,
    contrast: bool = False,
) -> tuple[Image.Image, int | None]:
    """Decode the first frame, upright, to 8-bit grey or RGB.

    Args:
        content: of the file.
        channels: 1 or 3; None keeps the file's.
        bits: as `to_8_bits` takes them.
        min_size: maps an image's (width, height) to the smallest size that is enough, as JPEG
            decoders can downscale.
        contrast: put transparent pixels on black if the others are all but white.

    Returns:
        The image, and its highest value as `decode` returns it.
    """
    with open_image(content) as opened:
        if opened.format == "JPEG":  # can be decoded at a half, a quarter or an eighth of its size
            mode = {1: "L", 3: "RGB", None: None}[channels]
            opened.draft(mode, min_size(opened.size))
        image, highest = to_8_bits(opened, content, bits)
        grey = opened.mode in GREY_MODES
        if opened.format != "TIFF":  # which Pillow itself turns
            image = upright(image, opened.info)
        return _opaque(image, channels or (1 if grey else 3), contrast=contrast), highest


@contextmanager
def strict_warnings() -> Iterator[None]:
    """Silence Pillow's warnings, but make the one about too many pixels an error.

    Pillow warns above a number of pixels and fails above twice that: here the lower limit counts.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def error_cause(error: BaseException) -> str:
    """Return in a few words why `decode` failed."""
    words = " ".join(str(error).split())
    if "cannot identify image file" in words:
        return "not an image in one of the formats " + ", ".join(FORMATS)
    return words[:160] or type(error).__name__


def _opaque(image: Image.Image, channels: int, *, contrast: bool) -> Image.Image:
    """Convert an 8-bit image of any mode to grey or RGB, without transparency."""
    mode = "L" if channels == 1 else "RGB"
    if image.has_transparency_data:
        image = image.convert("RGBA")
        on_white = _on(BACKGROUND, image)
        faint = contrast and int(np.asarray(on_white).min()) > BACKGROUND - MIN_CONTRAST
        image = _on(0, image) if faint else on_white
    if image.mode == "LAB":  # which Pillow converts to nothing else
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def _on(grey: int, image: Image.Image) -> Image.Image:
    background = Image.new("RGBA", image.size, (grey, grey, grey, 255))
    return Image.alpha_composite(background, image)


def _scaled(size: tuple[int, int], settings: PixelSettings) -> tuple[int, int]:
    """Return the width and height, proportions kept, at which an image fits or fills the square."""
    fitted_side = max(size) if settings.fit == "pad" else min(size)
    width, height = (
        max(1, (2 * side * settings.size + fitted_side) // (2 * fitted_side)) for side in size
    )
    return width, height


def _fit(image: Image.Image, settings: PixelSettings) -> Image.Image:
    square = settings.size, settings.size
    if image.size == square and settings.crop_fraction == 1:
        return image
    width, height = image.size
    if settings.fit == "crop":
        side = min(width, height) * settings.crop_fraction
        left, top = (width - side) / 2, (height - side) / 2
        box = left, top, left + side, top + side
        return image.resize(square, Image.Resampling.BICUBIC, box, REDUCING_GAP)
    scaled = _scaled(image.size, settings)
    resized = image.resize(scaled, Image.Resampling.BICUBIC, reducing_gap=REDUCING_GAP)
    padded = Image.new(image.mode, square)  # black
    padded.paste(resized, ((square[0] - scaled[0]) // 2, (square[1] - scaled[1]) // 2))
    return padded
