"""The orientation is applied wherever it is written, and whatever else the metadata hold."""

import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from image_pipeline.reading.pixels import PixelSettings
from reading.image_files import chunk, decoded, encoded

SIDE = 16
UPRIGHT = np.zeros((SIDE, SIDE), np.uint8)
UPRIGHT[:, SIDE // 2 :] = 255  # of a picture whose upper half is white, turned to the right
PICTURE = Image.fromarray(np.rot90(UPRIGHT).copy())


def upright(content: bytes) -> np.ndarray:
    pixels: np.ndarray = decoded(content, PixelSettings(1, SIDE, "pad"))[0]
    return pixels


def camera_exif(orientation: int = 6) -> bytes:
    """Return what a camera may write."""
    exif = Image.Exif()
    exif[271], exif[272], exif[274] = "Maker", "Model", orientation
    exif[282] = exif[283] = IFDRational(72, 1)
    exif[296], exif[306] = 2, "2020:01:01 00:00:00"
    details = exif.get_ifd(0x8769)
    details[33434], details[37380] = IFDRational(1, 100), IFDRational(-1, 3)
    details[36864], details[37510] = b"0232", b"ASCII\0\0\0hello"
    exif.get_ifd(0x8825)[2] = tuple(IFDRational(number, 1) for number in (1, 2, 3))
    return exif.tobytes()


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description %s</x:xmpmeta>'
AS_ATTRIBUTE = XMP % b'tiff:Orientation="6"/>'
AS_ELEMENT = XMP % b"><tiff:Orientation>6</tiff:Orientation></rdf:Description>"


def png(kind: bytes, data: bytes) -> bytes:
    content = encoded(PICTURE)
    return content[:33] + chunk(kind, data) + content[33:]  # after the signature and IHDR


RAW_PROFILE = f"\nexif\n{len(camera_exif()):8}\n{camera_exif().hex()}\n".encode()
WRITTEN = {
    "JPEG, EXIF": encoded(PICTURE, "JPEG", exif=camera_exif()),
    "JPEG, XMP": encoded(PICTURE, "JPEG", xmp=AS_ATTRIBUTE),
    "JPEG, XMP as an element": encoded(PICTURE, "JPEG", xmp=AS_ELEMENT),
    "WebP, EXIF": encoded(PICTURE, "WEBP", exif=camera_exif(), lossless=True),
    "WebP, XMP": encoded(PICTURE, "WEBP", xmp=AS_ATTRIBUTE, lossless=True),
    "PNG, eXIf": png(b"eXIf", camera_exif()[6:]),
    "PNG, raw profile": png(b"tEXt", b"Raw profile type exif\0" + RAW_PROFILE),
    "PNG, XMP": png(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + AS_ATTRIBUTE),
    "TIFF": encoded(PICTURE, "TIFF", exif=camera_exif()),
    "AVIF": encoded(PICTURE, "AVIF", exif=camera_exif()),
}


@pytest.mark.parametrize("place", WRITTEN)
def test_an_orientation_is_found_where_it_is_written(place: str) -> None:
    assert np.abs(upright(WRITTEN[place]).astype(int) - UPRIGHT).max() <= 8


def lossless(exif: bytes, **options: Any) -> bytes:
    return encoded(PICTURE, "WEBP", exif=exif, lossless=True, **options)


def test_exif_counts_more_than_xmp() -> None:
    content = lossless(camera_exif(1), xmp=AS_ATTRIBUTE)
    assert np.array_equal(upright(content), np.asarray(PICTURE))


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"Exif\0\0",
        b"Exif\0\0MM\0*\xff\xff\xff\xff",
        camera_exif()[:30],
        camera_exif(0),
        camera_exif(9),
        camera_exif().replace(b"\x01\x12\x00\x03", b"\x01\x12\x00\x0c"),  # of type double
    ],
)
def test_without_a_valid_orientation_an_image_stays_as_it_is(exif: bytes) -> None:
    assert np.array_equal(upright(lossless(exif)), np.asarray(PICTURE))


def test_an_odd_tag_does_no_harm() -> None:
    """A rational with the denominator 0, of which Pillow cannot write the EXIF again."""
    odd = camera_exif().replace(struct.pack(">2i", -1, 3), struct.pack(">2i", -1, 0))
    assert odd != camera_exif()
    assert np.array_equal(upright(lossless(odd)), UPRIGHT)


@pytest.mark.parametrize("count", [400, pytest.param(4000, marks=pytest.mark.slow)])
def test_of_jpegs_with_damaged_exif_none_is_refused_or_unturned(count: int) -> None:
    """Those are turned whose header and whose orientation are undamaged."""
    content, exif = WRITTEN["JPEG, EXIF"], camera_exif()[6:]
    start = content.index(exif)
    entry = exif.index(b"\x01\x12\x00\x03")
    right = upright(content)
    rng = np.random.default_rng(0)
    intact = 0
    for _ in range(count):
        damaged = bytearray(exif)
        places = rng.integers(0, len(exif), rng.integers(1, 9))
        for place in places.tolist():
            damaged[place] = int(rng.choice([0, 255, int(rng.integers(256))]))
        found = upright(content[:start] + damaged + content[start + len(exif) :])
        same = [damaged[part] == exif[part] for part in (slice(10), slice(entry, entry + 12))]
        if all(same) and not any(
            damaged[at : at + 2] == b"\x01\x12" for at in range(10, entry, 12)
        ):  # damage may make an orientation of a tag before it
            intact += 1
            assert np.array_equal(found, right)
    assert intact > count // 2
