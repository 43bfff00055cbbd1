"""Image files of every kind to pixels, against values worked out by hand."""

import importlib.util
import os
import shutil
import struct
import sys
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image, ImageOps

from image_pipeline.reading.pixels import PixelSettings, has_more_frames
from project import require, run
from reading.image_files import HEIC, NO_IMAGE, chunk, decoded, encoded, failure

GREY = PixelSettings(1, 4, "pad")
COLOUR = PixelSettings(3, 4, "pad")
NOISE = np.random.default_rng(0).integers(0, 256, (500, 700), np.uint8)
RAMP = np.arange(0, 256, 16, dtype=np.uint8).reshape(4, 4)
LOSSLESS: dict[str, dict[str, Any]] = {form: {} for form in ("PNG", "BMP", "GIF", "TIFF")}
LOSSLESS["WEBP"] = {"lossless": True}
# Prints the hash of each file's pixels, in several shapes.
HASHES = """
import hashlib, sys
from pathlib import Path
from image_pipeline.reading.pixels import PixelSettings, decode

for path in sorted(Path(sys.argv[1]).iterdir()):
    for channels, size, fit in ((1, 28, "pad"), (3, 100, "crop"), (3, 600, "pad")):
        content, _ = decode(path.read_bytes(), PixelSettings(channels, size, fit))
        print(path.name, hashlib.sha256(content).hexdigest())
"""


def pixels(content: bytes, settings: PixelSettings = GREY) -> np.ndarray:
    return decoded(content, settings)


@pytest.mark.parametrize("form", LOSSLESS)
def test_lossless_formats(form: str) -> None:
    content = encoded(Image.fromarray(RAMP), form, **LOSSLESS[form])
    assert np.array_equal(pixels(content)[0], RAMP)
    assert np.array_equal(pixels(content, COLOUR), np.stack([RAMP] * 3))


def test_colours_keep_their_order_and_become_grey_by_their_brightness() -> None:
    image = Image.new("RGB", (4, 4), (255, 10, 20))
    assert pixels(encoded(image), COLOUR)[:, 0, 0].tolist() == [255, 10, 20]
    # 0.299, 0.587, 0.114: ITU-R 601-2
    assert pixels(encoded(image))[0, 0, 0] == round(0.299 * 255 + 0.587 * 10 + 0.114 * 20)


def test_transparent_greys_stand_on_white() -> None:
    image = Image.new("LA", (4, 4), (0, 255))
    image.putpixel((0, 0), (0, 0))
    found = pixels(encoded(image), COLOUR)
    assert found[:, 0, 0].tolist() == [255, 255, 255]
    assert found.sum() == 3 * 255


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_a_transparent_palette_entry_stands_on_white(form: str) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.putpixel((0, 0), 0)
    found = pixels(encoded(image, form, transparency=0), COLOUR)
    assert found[:, 0, 0].tolist() == [255, 255, 255]
    assert found[:, 1, 1].tolist() == [200, 100, 50]


def test_half_transparent_pixels_are_mixed() -> None:
    image = Image.new("RGBA", (4, 4), (100, 0, 0, 51))  # a fifth
    assert pixels(encoded(image), COLOUR)[:, 0, 0].tolist() == [224, 204, 204]


def test_exif_orientation() -> None:
    upright = [
        RAMP,
        RAMP[:, ::-1],
        RAMP[::-1, ::-1],
        RAMP[::-1],
        RAMP.T,
        RAMP[::-1].T,
        RAMP[::-1, ::-1].T,
        RAMP.T[::-1],
    ]
    for orientation, expected in enumerate(upright, start=1):
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = encoded(Image.fromarray(RAMP), exif=exif)
        assert np.array_equal(pixels(content)[0], expected), orientation


def test_padding_by_hand() -> None:
    wide = pixels(encoded(Image.new("L", (8, 4), 200)))[0]
    assert wide.tolist() == [[0] * 4, [200] * 4, [200] * 4, [0] * 4]
    high = pixels(encoded(Image.new("L", (1, 2), 200)))[0]
    assert high.tolist() == [[0, 200, 200, 0]] * 4
    line = pixels(encoded(Image.new("L", (1000, 1), 200)))[0]
    assert line.tolist() == [[0] * 4, [200] * 4, [0] * 4, [0] * 4]


@pytest.mark.parametrize("fit", ["pad", "crop"])
def test_a_square_is_scaled_either_way(fit: Literal["pad", "crop"]) -> None:
    large = np.kron(RAMP, np.ones((50, 50), np.uint8))
    found = pixels(encoded(Image.fromarray(large)), PixelSettings(1, 4, fit))[0].astype(int)
    assert np.abs(found - RAMP).max() <= 8
    small = pixels(encoded(Image.new("L", (2, 2), 77)), PixelSettings(1, 4, fit))
    assert (small == 77).all()


@pytest.mark.parametrize(("height", "fraction"), [(4, 1.0), (8, 0.5)])
def test_cropping_takes_a_fraction_of_the_middle(height: int, fraction: float) -> None:
    image = np.zeros((height, 12), np.uint8)
    image[height // 2 - 2 : height // 2 + 2, 4:8] = RAMP
    settings = PixelSettings(1, 4, "crop", crop_fraction=fraction)
    assert np.array_equal(pixels(encoded(Image.fromarray(image)), settings)[0], RAMP)


def test_a_square_of_the_right_size_is_cropped_and_enlarged() -> None:
    square = np.zeros((4, 4), np.uint8)
    square[1:3, 1:3] = 200
    half = PixelSettings(1, 4, "crop", crop_fraction=0.5)
    found = pixels(encoded(Image.fromarray(square)), half)[0]
    assert found.min() > 100
    assert found[1:3, 1:3].min() >= 199


def test_a_jpeg_is_not_decoded_at_a_size_below_what_its_crop_needs() -> None:
    """Decoded at a half, checks of one pixel would become a grey area."""
    checks = (np.indices((800, 800)).sum(0) % 2 * 255).astype(np.uint8)
    content = encoded(Image.fromarray(checks), "JPEG", quality=95)
    found = pixels(content, PixelSettings(1, 80, "crop", crop_fraction=0.1))[0]
    assert np.abs(found.astype(int) - checks[360:440, 360:440]).mean() < 20


def test_the_first_frame_counts() -> None:
    frames = [Image.new("L", (4, 4), shade) for shade in (30, 200)]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (pixels(content) == 30).all()
    assert has_more_frames(content)
    assert has_more_frames(b"GIF89a, and no more")
    for form in ("PNG", "GIF", "TIFF"):
        assert not has_more_frames(encoded(frames[0], form))


def test_a_decompression_bomb() -> None:
    head = chunk(b"IHDR", struct.pack(">2I5B", 10_000, 10_000, 8, 0, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    message = failure(b"\x89PNG\r\n\x1a\n" + head + body)
    assert "Image size (100000000 pixels) exceeds limit of 89478485 pixels" in message


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", NO_IMAGE),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", NO_IMAGE),
        (encoded(Image.fromarray(NOISE), "JPEG")[:-900], "image file is truncated"),
    ],
    ids=["PostScript", "a video", "most of a JPEG"],
)
def test_unreadable_files(content: bytes, told: str) -> None:
    assert told in failure(content)


def test_vector_code_gives_the_bits_of_plain_c(tmp_path: Path) -> None:
    """libjpeg-turbo, told by its environment variable to use none, and each kind of it."""
    image = ImageOps.colorize(Image.fromarray(NOISE), "navy", "orange", "green")
    (tmp_path / "image.jpg").write_bytes(encoded(image, "JPEG", quality=70))
    command = (sys.executable, "-c", HASHES, tmp_path)
    expected = run(*command).stdout
    for choice in ("JSIMD_FORCENONE", "JSIMD_FORCESSE2", "JSIMD_FORCEAVX2"):
        assert run(*command, env=os.environ | {choice: "1"}).stdout == expected


@pytest.mark.slow
@pytest.mark.parametrize("processor", ["EPYC-Rome", "Nehalem"])
def test_emulated_processors_decode_to_the_same_bits(processor: str, tmp_path: Path) -> None:
    """Every format, in whichever of its decoder's variants such a processor chooses."""
    require(shutil.which("qemu-x86_64"), "qemu-x86_64")
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 256, (12, 16, 3), np.uint8)
    image = Image.fromarray(smooth).resize((161, 123), Image.Resampling.BICUBIC)
    for form in ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF"):
        (tmp_path / form).write_bytes(encoded(image, form))
    for name, form, options in (
        ("lossy", "JPEG2000", {"irreversible": True, "quality_layers": [20]}),
        ("4:4:4", "AVIF", {"subsampling": "4:4:4", "quality": 40}),
        ("limited", "AVIF", {"range": "limited"}),
    ):
        (tmp_path / f"{form} {name}").write_bytes(encoded(image, form, **options))
    if importlib.util.find_spec("pillow_heif"):
        (tmp_path / "HEIC").write_bytes(HEIC)
    lab = Image.frombytes("LAB", image.size, image.tobytes())
    (tmp_path / "LAB").write_bytes(encoded(lab, "TIFF"))
    # Without a user's choice of NumPy's kernels, which this processor may lack.
    env = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    here, there = (
        run(*prefix, sys.executable, "-c", HASHES, tmp_path, env=env).stdout.splitlines()
        for prefix in ([], ["qemu-x86_64", "-cpu", processor])
    )
    assert len(here) == 3 * len(list(tmp_path.iterdir())) >= 39
    assert here == there
