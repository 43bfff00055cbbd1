"""Image files, some written by hand as Pillow does not, and what they are decoded to."""

import base64
import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

from image_pipeline.reading.formats import FORMATS
from image_pipeline.reading.pixels import PixelSettings, decode, error_cause, strict_warnings

LITTLE, BIG = "<", ">"
SHORT, LONG = 3, 4  # TIFF's types
LETTERS = {SHORT: "H", LONG: "I"}
NO_IMAGE = f"not an image in one of the formats {', '.join(FORMATS)}"


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def decoded(content: bytes, settings: PixelSettings) -> np.ndarray:
    """Return an image's pixels, uint8 `[C, H, W]`."""
    with strict_warnings():
        pixels, _ = decode(content, settings)
    return np.frombuffer(pixels, np.uint8).reshape(settings.shape)


def failure(content: bytes) -> str:
    try:
        decoded(content, PixelSettings(1, 4, "pad"))
    except Exception as error:
        return error_cause(error)
    return "it was decoded"


def tiff(
    data: bytes | list[bytes],
    photometric: int,
    bits: int,
    order: str = LITTLE,
    samples: int = 1,
    **tags: list[int],
) -> bytes:
    """Write a TIFF file of one row of two pixels.

    Args:
        data: of the pixels; a list holds planes.
        photometric: 0: white is zero, 1: black is zero, 2: RGB, 3: palette, 5: CMYK, 6: YCbCr, 8:
            LAB.
        bits: per sample.
        order: of the bytes.
        samples: per pixel.
        **tags: further ones, by their number after a letter.
    """
    strips = data if isinstance(data, list) else [data]
    values = {256: [2], 257: [1], 258: [bits] * samples, 259: [1], 262: [photometric]}
    values |= {273: [], 277: [samples], 278: [1], 279: [len(strip) for strip in strips]}
    values |= {284: [2 if len(strips) > 1 else 1]} | {int(k[1:]): v for k, v in tags.items()}
    at = 8 + 2 + 12 * len(values) + 4
    for strip in strips:
        values[273].append(at)
        at += len(strip)
    entries, tail = b"", b""
    for tag, numbers in sorted(values.items()):
        kind = LONG if tag in (273, 279) else SHORT
        packed = struct.pack(f"{order}{len(numbers)}{LETTERS[kind]}", *numbers)
        entries += struct.pack(f"{order}HHI", tag, kind, len(numbers))
        if len(packed) > 4:
            entries += struct.pack(f"{order}I", at + len(tail))
            tail += packed
        else:
            entries += packed.ljust(4, b"\0")
    head = (b"II" if order == LITTLE else b"MM") + struct.pack(f"{order}HI", 42, 8)
    return b"".join((head, struct.pack(f"{order}H", len(values)), entries, bytes(4), *strips, tail))


def png_of_16_bits(values: np.ndarray, *chunks: bytes) -> bytes:
    """Write a PNG file of 16-bit values `[H, W, C]`: 1 grey, 2 with alpha, 3 RGB, 4 with alpha."""
    height, width, channels = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    head = chunk(b"IHDR", struct.pack(">2I5B", width, height, 16, kind, 0, 0, 0))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + body


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum


# 64 x 64 pixels: black at the left, (200, 100, 50) at the right, nearly.
HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAVZtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAA"
    "AAAAACJpbG9jAAAAAERAAAEAAQAAAAABegABAAAAAAAAACcAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAA"
    "AA5waXRtAAAAAAABAAAA1mlwcnAAAAC3aXBjbwAAAHhodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNw"
    "AAADAJAAAAMAAAMAHroCQGEAAQArQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbqSSmubgIaDAgAAAMAyAAAAwAIQGIAAQAHRAHB"
    "crAiQAAAABNjb2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABAAAAAQAAAABBwaXhpAAAAAAMICAgAAAAXaXBtYQAAAAAA"
    "AAABAAEEgQIDBAAAAC9tZGF0AAAAIygBrwngIYU0pf//xRFOZTz+o9jP/8l87L9qMo9JKX/+Nr/g"
)
