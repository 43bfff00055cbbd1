"""The orientation in an image's metadata.

Only this one tag is read. Pillow's `exif_transpose` reads and rewrites all of them, and so rejects
a good image, or leaves it unturned, for an odd value in any other.
"""

import re
import struct
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from PIL import Image

TAG = 274
INTEGERS = {1: "B", 3: "H", 4: "I"}  # by EXIF's number of their type
XMP = re.compile(rb"""tiff:Orientation(?:\s*=\s*["']|>\s*)([1-8])""")
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright(image: Image.Image, info: Mapping[Any, Any]) -> Image.Image:
    """Turn an image as its metadata say, Pillow's `info`: in EXIF, or else in XMP."""
    turn = TURNS.get(_from_exif(info) or _from_xmp(info))
    return image if turn is None else image.transpose(turn)


def _from_exif(info: Mapping[Any, Any]) -> int:
    """Return the orientation, 0 if there is none or EXIF is damaged before it."""
    with suppress(KeyError, ValueError, struct.error):
        exif = info.get("exif")
        if exif is None:  # as ImageMagick writes it into a PNG
            exif = bytes.fromhex("".join(info["Raw profile type exif"].split("\n")[3:]))
        exif = re.sub(rb"^(Exif\0\0)+", b"", exif)
        order = {b"II": "<", b"MM": ">"}[exif[:2]]
        (start,) = struct.unpack_from(f"{order}4xI", exif)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", exif, entry)
            if tag == TAG:
                return int(struct.unpack_from(order + INTEGERS[kind], exif, entry + 8)[0])
    return 0


def _from_xmp(info: Mapping[Any, Any]) -> int:
    xmp = info.get("XML:com.adobe.xmp") or info.get("xmp") or b""
    found = XMP.search(xmp.encode() if isinstance(xmp, str) else xmp)
    return int(found[1]) if found else 0
