"""Near-duplicates of made-up photographs, changed as people change pictures."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from image_pipeline.auditing.descriptors import Descriptors, describe
from image_pipeline.auditing.near_duplicates import Pairs, find_near_duplicates
from image_pipeline.common.processes import Processes

COUNT, SIDE = 120, 48


def photographs(count: int, seed: int = 0) -> list[Image.Image]:
    """Return noise with the spectrum of photographs: coarse and fine blobs in colour."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        total = np.zeros((SIDE, SIDE, 3), np.float32)
        for cells in (3, 6, 12, 24):
            blobs = rng.normal(size=(cells, cells, 3)).astype(np.float32)
            for channel in range(3):
                layer = Image.fromarray(blobs[:, :, channel])
                total[:, :, channel] += np.asarray(layer.resize((SIDE, SIDE), 3)) * 96 / cells
        made.append(Image.fromarray(np.clip(total + 128, 0, 255).astype(np.uint8)))
    return made


def recompressed(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=50)
    return Image.open(buffer).convert("RGB")


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "none": lambda image: image,
    "recompressed": recompressed,
    "shifted": lambda image: image.transform(
        image.size, Image.Transform.AFFINE, (1, 0, 2, 0, 1, -3)
    ),
    "cropped": lambda image: image.resize(image.size, 3, box=(3, 2, 46, 45)),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "flat": lambda image: ImageEnhance.Contrast(image).enhance(0.6),
    "mirrored": ImageOps.mirror,
    "mirrored, scaled": lambda image: ImageOps.mirror(image).resize(image.size, 3, (2, 2, 47, 46)),
}


def described(images: list[Image.Image]) -> Descriptors:
    return describe(np.stack([np.asarray(image).transpose(2, 0, 1) for image in images]))


def found(images: Descriptors, cores: int = 1) -> Pairs:
    with Processes(cores, "compares images") as processes:
        return find_near_duplicates(images, processes)


@pytest.fixture(scope="module")
def images() -> Descriptors:
    originals = photographs(COUNT)
    return described(
        [*originals, *(change(originals[10 * n]) for n, change in enumerate(CHANGES.values()))]
    )


@pytest.fixture(scope="module")
def pairs(images: Descriptors) -> Pairs:
    return found(images)


def test_each_kind_of_change_is_found_and_nothing_else(pairs: Pairs) -> None:
    expected = {(10 * n, COUNT + n) for n in range(len(CHANGES))}
    assert set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == expected
    mirrored = {name for name in CHANGES if name.startswith("mirrored")}
    names = [list(CHANGES)[second - COUNT] for second in pairs.second]
    assert {n for n, flag in zip(names, pairs.mirrored, strict=True) if flag} == mirrored
    # The nearest come first, and an equal one is at 0.
    assert (np.diff(pairs.distance) >= 0).all()
    [same] = pairs.distance[pairs.second == COUNT]
    assert same < 1e-3


def test_the_number_of_processes_changes_no_bit(images: Descriptors, pairs: Pairs) -> None:
    again = found(images, 2)
    for name in ("first", "second", "distance", "mirrored"):
        assert getattr(again, name).tobytes() == getattr(pairs, name).tobytes()


def test_strokes_that_all_look_alike_are_no_near_duplicates() -> None:
    """As the 1s of MNIST: each is close to many others, and closer to none than to all."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:28, 0:28]
    images = np.zeros((150, 1, 28, 28), np.uint8)
    for image in images:
        slope, middle, width = rng.uniform(-0.4, 0.4), rng.uniform(12, 16), rng.uniform(1.2, 2.2)
        away = np.abs(x - middle - slope * (y - 14)) + np.maximum(np.abs(y - 14) - 8, 0)
        image[0] = np.clip(255 * (width + 0.5 - away), 0, 255)
    assert len(found(describe(images)).first) < 10


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 40, 64)])
def test_descriptors_of_any_shape_hold_integers(shape: tuple[int, int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, *shape), np.uint8)
    images[0] = 7  # constant
    one = describe(images)
    for part in (one.even, one.odd):
        assert (part == np.rint(part)).all()
    squares = (one.even**2).sum(axis=1) + (one.odd**2).sum(axis=1)
    assert squares[0] == 0
    assert np.allclose(np.sqrt(squares[1:]), 127, atol=3)
    assert len(found(one).first) == 0
