"""The values of 16-bit images, scaled to 8 bits.

White is the highest value that the file allows: TIFF's BitsPerSample, PGM's own maximum, JPEG
2000's precision. A file of 16 bits may still hold a camera's 10 or 12. One image cannot tell, as it
may be a dark one, so whoever knows more images gives the number of bits. PNG's `sBIT` says nothing:
by the standard, values are scaled to 16 bits whatever it is.
"""

import re
from typing import get_args

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

from image_pipeline.common.schema import Bits
from image_pipeline.reading.formats import open_image

WHITE = 65535
# Pillow keeps the high byte of a 16-bit colour; read in the other order, it keeps the low one.
COLOURS = re.compile(r"(LA|RGBX?|RGBA);16([BLN])")
OTHER_ORDER = {"B": "L", "L": "B", "N": "B"}
CODESTREAM = b"\xff\x4f\xff\x51"  # of JPEG 2000
PRECISION = 42  # bytes from there to the number of bits


def fewest_bits(highest: int) -> Bits:
    """Return the fewest bits that hold values up to the highest one."""
    return next(bits for bits in get_args(Bits) if highest < 1 << bits)


def to_8_bits(
    image: ImageFile.ImageFile, content: bytes, bits: Bits | None
) -> tuple[Image.Image, int | None]:
    """Load an image; scale it if it has 16 bits.

    Args:
        image: opened, not yet loaded.
        content: of its file.
        bits: of the values of an image whose file allows 16; None: the fewest that hold them.

    Returns:
        The image, and its highest value if its file allows 16 bits; None for any other image.

    Raises:
        ValueError: the image has values of unknown range.
        Exception: of any kind, from Pillow.
    """
    white_is_zero = False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiff(image, bits)
        white_is_zero = image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    allowed = _allowed_white(image, content)
    colours = COLOURS.fullmatch(_raw_mode(image))
    image.load()
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        raise ValueError("its pixels have 32 bits, with no defined white")
    if not colours and image.mode != "I" and not image.mode.startswith("I;16"):
        return image, None
    values: np.ndarray = np.asarray(image).astype(np.uint32)
    if colours:
        values, alpha = values[..., :3] << 8, values[..., 3:].astype(np.uint8)
    highest = int(values.max()) | (255 if colours else 0)
    white = allowed or (1 << (bits or fewest_bits(highest))) - 1
    if highest > white and not allowed:
        raise ValueError(f"its values reach {highest}, those of the training images only {white}")
    if colours and white == WHITE:
        return image, highest
    if colours:
        values |= _low_bytes(content, colours)
    scaled = ((values.clip(max=white) * 255 + white // 2) // white).astype(np.uint8)
    if colours:
        scaled = np.concatenate([scaled, alpha], axis=2)
    elif white_is_zero:
        scaled = 255 - scaled
    elif isinstance(transparent := image.info.get("transparency"), int):
        scaled[values == transparent] = 255
    return Image.fromarray(scaled), None if allowed else highest


def _check_tiff(image: TiffImagePlugin.TiffImageFile, bits: Bits | None) -> None:
    """Raise a ValueError for kinds of pixels that Pillow misreads."""
    tags = image.tag_v2
    if 2 in tags.get(TiffImagePlugin.SAMPLEFORMAT, ()):
        raise ValueError("its pixels are signed numbers, with no defined black")
    wide = tags.get(TiffImagePlugin.BITSPERSAMPLE, ())[1:2] == (16,)
    in_planes = tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2
    # Of compressed planes, which libtiff reads, only the low bytes are wrong.
    if wide and in_planes and (tags.get(TiffImagePlugin.COMPRESSION, 1) == 1 or bits != 16):
        raise ValueError("its 16-bit colours are in planes, which Pillow misreads")


def _allowed_white(image: ImageFile.ImageFile, content: bytes) -> int | None:
    """Return the highest value that a file of more than 8 bits allows, None if it is 65535.

    Of a PPM or PGM, also choose Pillow's fast decoder, which does not scale to that value.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        (depth, *_) = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
        return None if depth == 16 else (1 << depth) - 1
    if image.format == "JPEG2000":
        precision = content[content.index(CODESTREAM) + PRECISION] % 128 + 1
        return None if precision == 16 else WHITE  # to which Pillow scales
    if image.format == "PPM" and isinstance(arguments := image.tile[0].args, tuple):
        tile, white = image.tile[0], int(arguments[1])
        if tile.codec_name == "ppm_plain":  # which scales to 16 bits
            return None if white == WHITE else WHITE
        if white > 255:
            rawmode = "I;16B" if image.mode == "I" else "RGB;16B"
            image.tile = [tile._replace(codec_name="raw", args=rawmode)]
        return None if white == WHITE else white
    return None


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """Return how the file stores its values, in Pillow's terms."""
    arguments = image.tile[0].args if image.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _low_bytes(content: bytes, colours: re.Match[str]) -> np.ndarray:
    """Decode the low bytes of 16-bit colours, uint8 `[H, W, 3]`."""
    with open_image(content) as image:
        _allowed_white(image, content)
        mode, order = colours.groups()
        swapped = "RGBA" if mode == "LA" else f"{mode};16{OTHER_ORDER[order]}"
        image.tile = [
            tile._replace(
                args=(swapped, *tile.args[1:]) if isinstance(tile.args, tuple) else swapped
            )
            for tile in image.tile
        ]
        image.load()
        low = np.asarray(image)
    # The four bytes of grey and alpha, taken for red, green, blue and alpha: the grey's low one.
    return low[..., 1:2] if mode == "LA" else low[..., :3]
