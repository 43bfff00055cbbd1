"""The image formats that are read, and which package reads each."""

import io
from functools import cache

from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError, features

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF", "HEIF")
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp"),
    *(".pbm", ".pgm", ".ppm", ".pnm", ".jp2", ".j2k", ".jpx", ".avif", ".heic", ".heif"),
)
MAX_BRANDS = 1024  # bytes of them that are read

# Greys that Pillow's table of TIFFs lacks: 0 means that 0 is white, MM that the high byte is first.
for _order in (TiffImagePlugin.II, TiffImagePlugin.MM):
    for _photometric in (0, 1):
        for _bits in (12, 16):
            TiffImagePlugin.OPEN_INFO.setdefault(
                (_order, _photometric, (1,), 1, (_bits,), ()),
                ("I;16", "I;12") if _bits == 12 else ("I;16B", "I;16B"),
            )


def open_image(content: bytes) -> ImageFile.ImageFile:
    """Open an image file of one of `FORMATS`, without decoding it.

    Raises:
        ValueError: it needs a package that is not installed, or is a TIFF of an unsupported kind.
        Exception: of any kind, from Pillow.
    """
    formats: tuple[str, ...] = FORMATS[:-2]
    if content[4:8] == b"ftyp":  # then come the brands, that is, what the file is compatible with
        brands = content[8 : min(int.from_bytes(content[:4]), MAX_BRANDS)]
        if b"avif" in brands or b"avis" in brands:
            if not features.check("avif"):
                raise ValueError("AVIF, which this Pillow lacks: pip install --upgrade pillow")
            formats = ("AVIF",)
        elif any(brand in brands for brand in (b"heic", b"heix", b"hevc", b"mif1")):
            _register_heif()
            formats = ("HEIF",)
    try:
        return Image.open(io.BytesIO(content), formats=formats)
    except UnidentifiedImageError:
        if content.startswith((b"II*\0", b"MM\0*")):
            raise ValueError("a TIFF file of a kind that Pillow cannot read") from None
        raise


@cache
def _register_heif() -> None:
    try:
        import pillow_heif
    except ImportError:
        raise ValueError("HEIC, which needs another package: pip install pillow-heif") from None
    pillow_heif.register_heif_opener()
