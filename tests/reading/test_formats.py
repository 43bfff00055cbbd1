"""Which formats are read, and what is said of those that need a package that is not here."""

import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from image_pipeline.reading import formats
from image_pipeline.reading.pixels import PixelSettings, has_more_frames
from reading.image_files import HEIC, decoded, encoded, failure

HALF = np.zeros((64, 64, 3), np.uint8)
HALF[:, 32:] = 200, 100, 50
AVIF = b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf"


def colours(content: bytes) -> list[list[int]]:
    """Return red, green and blue of a pixel at the left and one at the right."""
    pixels = decoded(content, PixelSettings(3, 64, "pad"))
    return [pixels[:, 30, 10].tolist(), pixels[:, 30, 50].tolist()]


def halves(form: str, **options: Any) -> bytes:
    return encoded(Image.fromarray(HALF), form, **options)


@pytest.mark.parametrize(
    ("content", "tolerance"),
    [
        (halves("PPM"), 0),
        (halves("JPEG2000"), 0),
        (halves("JPEG2000", no_jp2=True), 0),
        (halves("AVIF", quality=90), 4),
        (HEIC, 4),
    ],
    ids=["PPM", "JPEG 2000", "its codestream alone", "AVIF", "HEIC"],
)
def test_colours(content: bytes, tolerance: int) -> None:
    assert np.abs(np.array(colours(content)) - [[0, 0, 0], [200, 100, 50]]).max() <= tolerance
    assert not has_more_frames(content)


def test_frames_of_avif() -> None:
    others = [Image.fromarray(HALF[:, ::-1])]
    assert has_more_frames(halves("AVIF", save_all=True, append_images=others))


@pytest.mark.parametrize(
    ("content", "values"),
    [
        (b"P1\n# bits\n2 1\n0 1\n", [255, 0]),
        (b"P4\n2 1\n\x40", [255, 0]),
        (b"P2 2 1 255 7 200", [7, 200]),
        (b"P5 2 1 255\n\x07\xc8", [7, 200]),
        (b"P3 2 1 255 7 7 7 200 200 200", [7, 200]),
        (b"P6 2 1 255\n\x07\x07\x07\xc8\xc8\xc8", [7, 200]),
    ],
)
def test_each_kind_of_pnm(content: bytes, values: list[int]) -> None:
    assert list(decoded(content, PixelSettings(1, 2, "pad"))[0, 0]) == values


def test_heic_without_its_package_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    formats._register_heif.cache_clear()
    assert failure(HEIC) == "HEIC, which needs another package: pip install pillow-heif"


def test_avif_without_pillows_own_decoder_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda _: False)
    assert failure(AVIF) == "AVIF, which this Pillow lacks: pip install --upgrade pillow"
