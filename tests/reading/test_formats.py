"""Which formats are read, and what is said of those that need a package that is not here."""

import importlib.util
import io
import sys
from types import SimpleNamespace
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
VIDEO = b"\0\0\0\x18ftypisom\0\0\0\0isommp42"


def colours(content: bytes) -> list[list[int]]:
    """Return red, green and blue of a pixel at the left and one at the right."""
    pixels = decoded(content, PixelSettings(3, 64, "pad"))
    return [pixels[:, 30, 10].tolist(), pixels[:, 30, 50].tolist()]


def halves(form: str, frames: int = 1, **options: Any) -> bytes:
    images = [Image.fromarray(np.roll(HALF, shift, 1)) for shift in range(frames)]
    if frames > 1:
        options |= {"save_all": True, "append_images": images[1:]}
    return encoded(images[0], form, **options)


@pytest.mark.parametrize(
    "content", [halves("PPM"), halves("JPEG2000"), halves("JPEG2000", no_jp2=True)]
)
def test_lossless_colours(content: bytes) -> None:
    assert colours(content) == [[0, 0, 0], [200, 100, 50]]


def test_lossy_jpeg_2000() -> None:
    found = colours(halves("JPEG2000", irreversible=True, quality_layers=[20]))
    assert np.abs(np.array(found) - [[0, 0, 0], [200, 100, 50]]).max() <= 2


@pytest.mark.parametrize("range_", ["full", "limited"])
def test_avif(range_: str) -> None:
    content = halves("AVIF", quality=90, range=range_)
    assert np.abs(np.array(colours(content)) - [[0, 0, 0], [200, 100, 50]]).max() <= 4
    assert not has_more_frames(content)
    assert has_more_frames(halves("AVIF", frames=2))


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


def test_heic_is_read_by_whatever_its_package_registers(monkeypatch: pytest.MonkeyPatch) -> None:
    def register() -> None:
        Image.register_open("HEIF", lambda *_: Image.open(io.BytesIO(halves("PPM"))))

    Image.init()
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    package = SimpleNamespace(register_heif_opener=register)
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    formats._register_heif.cache_clear()
    assert colours(HEIC) == [[0, 0, 0], [200, 100, 50]]
    formats._register_heif.cache_clear()


@pytest.mark.skipif(not importlib.util.find_spec("pillow_heif"), reason="pillow-heif is not here")
def test_heic() -> None:
    assert np.abs(np.array(colours(HEIC)) - [[0, 0, 0], [200, 100, 50]]).max() <= 4
    assert not has_more_frames(HEIC)


def test_avif_without_pillows_own_decoder_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda _: False)
    assert failure(AVIF) == "AVIF, which this Pillow lacks: pip install --upgrade pillow"


def test_a_video_is_no_image() -> None:
    assert failure(VIDEO).startswith("not an image in one of the formats PNG, JPEG, BMP, GIF, TIF")
