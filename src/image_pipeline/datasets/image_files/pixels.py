"""One image file's bytes, of any size and colour, to pixels of a fixed shape.

The same bits on every x86-64 machine. Decoders: PNG, GIF, BMP and TIFF lose nothing;
libjpeg-turbo's vector code gives the bits of its plain C for the accurate inverse transform, which
Pillow leaves as it is, and so does libwebp's; tests compare them in an emulator and by
libjpeg-turbo's own switches. Resampling: Pillow multiplies whole numbers
(`ImagingResampleHorizontal_8bpc` in `Resample.c`), whose weights are sums and products of doubles,
rounded once. That holds for the bicubic filter: a Lanczos filter would ask the C library for a
sine, whose last bit may depend on the processor.
"""

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from image_pipeline.common.schema import Fit

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
BACKGROUND = 255  # what transparent pixels stand on: white
BORDER = 0  # what `pad` puts around an image that is not square: black
REDUCING_GAP = 3.0  # whole blocks are averaged down to this many times the size, then resampled
GREY_MODES = ("1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I;16N")
EXIF_KEYS = frozenset({"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"})


@dataclass(frozen=True)
class PixelSettings:
    """What every image becomes.

    Attributes:
        channels: 1 (grey) or 3 (red, green, blue).
        size: pixels on a side; images become square.
        fit: `pad` keeps all of an image and puts a border around it; `crop` fills the square and
            cuts off what lies beyond it, evenly on both sides.
    """

    channels: int
    size: int
    fit: Fit

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.channels, self.size, self.size

    @property
    def bytes_per_image(self) -> int:
        """The size of an image in bytes."""
        return self.channels * self.size * self.size


def decode(content: bytes, settings: PixelSettings) -> bytes:
    """Decode an image file and bring it to the asked shape; return its pixels, channel by channel.

    The first frame, turned as its EXIF orientation says; transparent pixels on white; 16-bit greys
    scaled to 8 bits.

    To be called in a `quiet_but_wary` block.

    Raises:
        MemoryError: there is too little of it.
        Exception: of any kind, as Pillow's decoders have it: this is no image that can be read.
    """

    def enough(size: tuple[int, int]) -> tuple[int, int]:
        width, height = _scaled(size, settings)
        return 4 * width, 4 * height

    image = _fitted(_upright(content, settings.channels, enough), settings)
    if settings.channels == 1:
        return image.tobytes()
    return b"".join(band.tobytes() for band in image.split())


def decode_whole(content: bytes, longest: int) -> np.ndarray:
    """Decode an image file as `decode` does, but keep its proportions.

    Returns:
        uint8 `[H, W]` where it is grey throughout, else `[H, W, 3]`; reduced where its longer side
        has more than `longest` pixels.
    """

    def enough(size: tuple[int, int]) -> tuple[int, int]:
        width, height = (-(-side * longest // max(size)) for side in size)
        return width, height

    image = _upright(content, None, enough)
    image.thumbnail((longest, longest), Image.Resampling.BICUBIC, REDUCING_GAP)
    pixels = np.asarray(image)
    grey = pixels.ndim == 2 or bool((pixels == pixels[..., :1]).all())
    return pixels[..., 0] if grey and pixels.ndim == 3 else pixels


def has_more_frames(content: bytes) -> bool:
    """Tell whether a GIF, TIFF or WebP file that can be decoded holds more than its first frame."""
    if content.startswith((b"\x89PNG", b"\xff\xd8", b"BM")):
        return False
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return bool(getattr(image, "is_animated", False))
    except Exception:  # the frames after the first are torn
        return True


def _upright(
    content: bytes,
    channels: int | None,
    enough: Callable[[tuple[int, int]], tuple[int, int]],
) -> Image.Image:
    """Decode the first frame, upright, to 8-bit grey or RGB.

    Args:
        content: of the file.
        channels: 1 or 3; as in the file where it is None.
        enough: tells of a size, (width, height), which one is large enough.
    """
    with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
        image: Image.Image = opened
        if opened.format == "JPEG":  # which can be decoded at a half, quarter or eighth of its size
            mode = {1: "L", 3: "RGB", None: None}[channels]
            opened.draft(mode, enough(opened.size))
        image.load()
        if image.format == "TIFF" or not EXIF_KEYS.isdisjoint(image.info):
            image = ImageOps.exif_transpose(image)
        if channels is None:
            channels = 1 if image.mode in GREY_MODES else 3
        return _plain(image, channels)


@contextmanager
def quiet_but_wary() -> Iterator[None]:
    """Silence Pillow's warnings; only the one of too many pixels becomes an error.

    Pillow has one limit of pixels for a warning and twice that for an error: the lower one counts.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def cause(error: BaseException) -> str:
    """Say in a few words why `decode` failed."""
    words = " ".join(str(error).split())
    if "cannot identify image file" in words:
        return "no image of these formats: " + ", ".join(FORMATS)
    return words[:160] or type(error).__name__


def _plain(image: Image.Image, channels: int) -> Image.Image:
    """Bring an image of any mode to 8-bit grey or RGB, without transparency."""
    mode = "L" if channels == 1 else "RGB"
    if image.mode.startswith("I;16"):
        wide = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits, and nobody has told which value is white")
    elif image.has_transparency_data:
        white = Image.new("RGBA", image.size, (BACKGROUND, BACKGROUND, BACKGROUND, 255))
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image if image.mode == mode else image.convert(mode)


def _scaled(size: tuple[int, int], settings: PixelSettings) -> tuple[int, int]:
    """Return the width and height, proportions kept, at which an image fits or fills the square."""
    decisive = max(size) if settings.fit == "pad" else min(size)
    width, height = (
        max(1, (2 * side * settings.size + decisive) // (2 * decisive)) for side in size
    )
    return width, height


def _fitted(image: Image.Image, settings: PixelSettings) -> Image.Image:
    square = settings.size, settings.size
    if image.size == square:
        return image
    width, height = image.size
    if settings.fit == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return image.resize(
            square,
            Image.Resampling.BICUBIC,
            box=(left, top, left + side, top + side),
            reducing_gap=REDUCING_GAP,
        )
    scaled = _scaled(image.size, settings)
    resized = image.resize(scaled, Image.Resampling.BICUBIC, reducing_gap=REDUCING_GAP)
    if scaled == square:
        return resized
    padded = Image.new(image.mode, square)  # all zero, which is BORDER
    padded.paste(resized, ((square[0] - scaled[0]) // 2, (square[1] - scaled[1]) // 2))
    return padded
