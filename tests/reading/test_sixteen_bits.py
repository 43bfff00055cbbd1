"""The value of a known pixel, whatever the number of bits, their order, and what is white."""

import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from image_pipeline.common.schema import Bits
from image_pipeline.reading.pixels import PixelSettings, decode, decode_whole, strict_warnings
from image_pipeline.reading.sixteen_bits import fewest_bits
from reading import image_files
from reading.image_files import BIG, LITTLE, chunk, png_of_16_bits, tiff

RED, GREEN, BLUE, WHITE, BLACK = ([255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0])


def shorts(order: str, *values: int) -> bytes:
    return struct.pack(f"{order}{len(values)}H", *values)


def decoded(content: bytes, bits: Bits = 16, width: int = 2) -> tuple[list[list[int]], int | None]:
    """Return the red, green and blue of the first row's pixels, and the highest value."""
    with strict_warnings():
        pixels, highest = decode(content, PixelSettings(3, width, "pad", bits))
    rows = np.frombuffer(pixels, np.uint8).reshape(3, width, width)
    return rows[:, (width - 1) // 2].T.tolist(), highest


def grey(*values: int) -> list[list[int]]:
    return [[value] * 3 for value in values]


# Kind of TIFF -> (file for an order of bytes, its two pixels).
TIFFS: dict[str, tuple[Callable[[str], bytes], list[list[int]]]] = {
    "1 bit": (lambda o: tiff(b"\x40", 1, 1, o), grey(0, 255)),
    "1 bit, white is 0": (lambda o: tiff(b"\x40", 0, 1, o), grey(255, 0)),
    "4 bits": (lambda o: tiff(b"\x0f", 1, 4, o), grey(0, 255)),
    "4 bits, white is 0": (lambda o: tiff(b"\x0f", 0, 4, o), grey(255, 0)),
    "8 bits": (lambda o: tiff(b"\x0a\xff", 1, 8, o), grey(10, 255)),
    "8 bits, white is 0": (lambda o: tiff(b"\x0a\xff", 0, 8, o), grey(245, 0)),
    "12 bits": (lambda o: tiff(b"\x08\x0f\xff", 1, 12, o), grey(8, 255)),  # 128 of 4095
    "12 bits, white is 0": (lambda o: tiff(b"\x08\x0f\xff", 0, 12, o), grey(247, 0)),
    "16 bits": (lambda o: tiff(shorts(o, 65406, 65407), 1, 16, o), grey(254, 255)),
    "16 bits, white is 0": (lambda o: tiff(shorts(o, 2570, 65535), 0, 16, o), grey(245, 0)),
    "16-bit colours": (
        lambda o: tiff(shorts(o, 0x1234, 0x5678, 0xFFFF, 0, 255, 256), 2, 16, o, 3),
        [[0x12, 0x56, 255], [0, 0, 1]],
    ),
    "16-bit colours, alpha": (
        lambda o: tiff(shorts(o, 0, 0, 0, 0, 65535, 0, 0, 65535), 2, 16, o, 4, t338=[2]),
        [WHITE, RED],
    ),
    "CMYK": (lambda o: tiff(bytes([0, 255, 255, 0, 0, 0, 0, 255]), 5, 8, o, 4), [RED, BLACK]),
    "LAB": (
        lambda o: tiff(bytes([255, 0, 0, 0, 0, 0]), 8, 8, o, 3),
        [[254, 255, 254], [1, 0, 1]],  # LittleCMS rounds
    ),
    "planes": (lambda o: tiff([b"\xff\0", b"\0\xff", b"\0\0"], 2, 8, o, 3), [RED, GREEN]),
}


@pytest.mark.parametrize("order", [LITTLE, BIG])
@pytest.mark.parametrize("kind", TIFFS)
def test_a_pixel_of_each_kind_of_tiff(kind: str, order: str) -> None:
    make, expected = TIFFS[kind]
    assert decoded(make(order))[0] == expected


def test_lab_becomes_grey() -> None:
    content = tiff(bytes([255, 0, 0, 0, 0, 0]), 8, 8, samples=3)
    assert image_files.decoded(content, PixelSettings(1, 2, "pad"))[0, 0].tolist() == [255, 0]


@pytest.mark.parametrize("order", [LITTLE, BIG])
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            lambda o: tiff(b"\xff\x01", 1, 8, o, t339=[2]),
            "its pixels are signed numbers, with no defined black",
        ),
        (
            lambda o: tiff(struct.pack(f"{o}2f", 0, 1), 1, 32, o, t339=[3]),
            "its pixels have 32 bits, with no defined white",
        ),
        (
            lambda o: tiff([shorts(o, 1, 2), shorts(o, 3, 4), shorts(o, 5, 6)], 2, 16, o, 3),
            "its 16-bit colours are in planes, which Pillow misreads",
        ),
        (lambda o: tiff(bytes(8), 1, 10, o), "a TIFF file of a kind that Pillow cannot read"),
    ],
    ids=["signed 8 bits", "floats", "planes", "10 bits, packed"],
)
def test_tiffs_that_would_be_misread_are_refused(
    make: Callable[[str], bytes], reason: str, order: str
) -> None:
    with pytest.raises(ValueError, match=f"^{reason}$"):
        decoded(make(order))


VALUES = np.array([[[0], [1023]], [[4095], [2048]]], np.uint16)


@pytest.mark.parametrize(
    "content",
    [
        png_of_16_bits(VALUES),
        png_of_16_bits(VALUES, chunk(b"sBIT", b"\x0c")),
        png_of_16_bits(np.concatenate([VALUES, np.full_like(VALUES, 65535)], axis=2)),
        png_of_16_bits(VALUES.repeat(3, axis=2)),
        b"P5 2 2 65535\n" + VALUES.astype(">u2").tobytes(),
        b"P6 2 2 65535\n" + VALUES.repeat(3, axis=2).astype(">u2").tobytes(),
        b"P2 2 2 65535\n0 1023 4095 2048\n",
    ],
    ids=["PNG", "PNG with sBIT", "grey, alpha", "RGB", "PGM", "PPM", "plain PGM"],
)
def test_values_below_16_bits_are_scaled_by_the_bits_of_the_data_set(content: bytes) -> None:
    dark, highest = decoded(content)
    assert max(map(max, dark)) <= 4  # 1023 of 65535
    assert highest == 4095
    assert decoded(content, 12) == (grey(0, 64), 4095)
    assert decoded(content, 14) == (grey(0, 16), 4095)
    with pytest.raises(ValueError, match=r"^its values reach 4095, those of the training images o"):
        decoded(content, 10)
    with strict_warnings():  # one image alone: 12 bits
        assert decode_whole(content, 2).tolist() == [[0, 64], [255, 128]]


@pytest.mark.parametrize("order", [LITTLE, BIG])
def test_tiffs_below_16_bits(order: str) -> None:
    content = tiff(shorts(order, 1023, 4095), 0, 16, order)  # white is 0
    assert decoded(content, 12) == (grey(191, 0), 4095)
    colours = tiff(shorts(order, 0, 1023, 4095, 2048, 0, 4095), 2, 16, order, 3)
    assert decoded(colours, 12) == ([[0, 64, 255], [128, 0, 255]], 4095)
    planes = [zlib.compress(shorts(order, *two)) for two in ((0, 2048), (1023, 0), (4095, 4095))]
    content = tiff(planes, 2, 16, order, 3, t259=[8])
    assert decoded(content) == ([[0, 3, 15], [8, 0, 15]], 4095)
    with pytest.raises(ValueError, match=r"^its 16-bit colours are in planes, which Pillow misre"):
        decoded(content, 12)
    alpha = tiff(shorts(order, 0, 1023, 4095, 65535, 9, 9, 9, 0), 2, 16, order, 4, t338=[2])
    assert decoded(alpha, 12) == ([[0, 64, 255], WHITE], 4095)


@pytest.mark.parametrize(
    "content",
    [
        b"P5 2 2 4095\n" + VALUES.astype(">u2").tobytes(),
        b"P6 2 2 4095\n" + VALUES.repeat(3, axis=2).astype(">u2").tobytes(),
        b"P2 2 2 4095\n0 1023 4095 2048\n",
        b"P5 2 2 100\n" + bytes([0, 25, 100, 50]),
        tiff(b"\x00\x03\xff", 1, 12),
    ],
    ids=["PGM", "PPM", "plain PGM", "PGM of less than 8 bits", "TIFF"],
)
@pytest.mark.parametrize("bits", [10, 16])
def test_a_file_that_says_its_white_is_scaled_by_it(content: bytes, bits: Bits) -> None:
    assert decoded(content, bits) == (grey(0, 64), None)


def test_jpeg_2000_scales_by_its_precision() -> None:
    values = np.kron(VALUES[..., 0], np.ones((16, 16), np.uint16))
    content = image_files.encoded(Image.fromarray(values), "JPEG2000")
    assert decoded(content, 12, 32)[1] == 4095
    assert {pixel[0] for pixel in decoded(content, 12, 32)[0]} == {0, 64}
    # The same codestream, said to have 12 bits, is that of values 16 times as large.
    marker = content.index(b"\xff\x4f\xff\x51")
    said = bytearray(content)
    said[marker + 42] = 11
    assert decoded(bytes(said), 8, 32)[1] is None


def test_the_fewest_bits() -> None:
    highest = [0, 255, 256, 1023, 1024, 4095, 4096, 16384]
    assert [fewest_bits(value) for value in highest] == [8, 8, 10, 10, 12, 12, 14, 16]


def test_a_transparent_grey_of_16_bits_stands_on_white() -> None:
    content = png_of_16_bits(VALUES, chunk(b"tRNS", struct.pack(">H", 1023)))
    assert decoded(content, 12) == (grey(0, 255), 4095)
