"""Augmentation, against values worked out by hand and against torch's own sampler."""

import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from torchvision.transforms.v2 import functional as transforms

from image_pipeline import augmentations
from image_pipeline.augmenting import custom
from image_pipeline.augmenting.augmentation import (
    CONTROL_POINTS,
    augment,
    crop,
    cutout,
    draw_affines,
    draw_displacements,
    flip,
    resized_crop,
)
from image_pipeline.augmenting.params import (
    AUGMENTATION_AMOUNTS,
    COLOURS,
    WARPS,
    AugmentationParams,
)
from image_pipeline.common.errors import ParamsError
from image_pipeline.common.params import read_params
from project import ROOT
from refusals import said_by

COMMITTED = read_params(ROOT / "params.yaml").train.augmentation
DISABLED: dict[str, Any] = dict.fromkeys(AUGMENTATION_AMOUNTS, 0)
DISABLED |= {"images_per_draw": 4, "custom": "none"}
ALL_WARPS = {"rotation": 30.0, "scale": 0.2, "shear": 15.0, "translation": 0.1, "elastic": 0.1}


class FixedDraws(np.random.Generator):
    """A generator with fixed uniform draws (turn, tall, wide, lean, down, right)."""

    def __init__(self, *draws: tuple[float, ...]) -> None:
        super().__init__(np.random.PCG64(0))
        self._draws = np.array(draws)

    def uniform(self, *_: Any, **__: Any) -> Any:
        return self._draws


def params(**amounts: float) -> AugmentationParams:
    return AugmentationParams.model_validate(DISABLED | amounts)


def random_images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


IMAGE = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], np.uint8)


@pytest.mark.parametrize(
    ("amounts", "draw", "expected"),
    [
        # A pixel is read one row further down: the image moves up, and zeros fill the gap.
        ({"translation": 1 / 3}, (0, 0, 0, 0, 1, 0), [[4, 5, 6], [7, 8, 9], [0, 0, 0]]),
        ({"translation": 1 / 3}, (0, 0, 0, 0, 0, -1), [[0, 1, 2], [0, 4, 5], [0, 7, 8]]),
        # Counter-clockwise: the right column becomes the top row.
        ({"rotation": 90.0}, (1, 0, 0, 0, 0, 0), np.rot90(IMAGE)),
    ],
)
def test_warps_by_hand(
    amounts: dict[str, float], draw: tuple[float, ...], expected: np.ndarray
) -> None:
    changed = augment(IMAGE[np.newaxis, np.newaxis], params(**amounts), FixedDraws(draw))
    assert changed.dtype == np.float32
    assert changed[0, 0] == pytest.approx(np.array(expected), abs=1e-4)


@pytest.mark.parametrize(("shape", "channels"), [((28, 28), 1), ((20, 33), 3), ((1, 7), 1)])
def test_agrees_with_torchs_sampler(shape: tuple[int, int], channels: int) -> None:
    height, width = shape
    count, settings = 6, params(**ALL_WARPS, images_per_draw=1)
    images = random_images(count, channels, height, width)
    changed = augment(images, settings, np.random.default_rng(1))

    rng = np.random.default_rng(1)
    maps = torch.from_numpy(draw_affines(settings, count, shape, rng))
    displacements = draw_displacements(settings, count, shape, rng)
    assert displacements is not None
    # Torch's coordinates run from -1 to 1 between the outer edges, columns (x) before rows (y).
    half = torch.tensor([height / 2, width / 2], dtype=torch.float64)
    linear = maps[:, :, :2] * half[None, None, :] / half[None, :, None]
    theta = torch.cat([linear, (maps[:, :, 2] / half)[:, :, None]], dim=2)
    theta = theta[:, [1, 0]][:, :, [1, 0, 2]]
    grid = functional.affine_grid(theta, [count, channels, height, width], align_corners=False)
    fields = torch.from_numpy(displacements).reshape(count, 2, height, width).permute(0, 2, 3, 1)
    grid += (fields / half).flip(-1)
    expected = functional.grid_sample(
        torch.from_numpy(images).double(), grid, padding_mode="zeros", align_corners=False
    )
    assert np.abs(changed - expected.numpy()).max() < 1e-2  # of 255 and in float32


def test_a_field_with_equal_control_points_is_a_translation() -> None:
    # The B-splines add up to 1 at every pixel. Down by 0.25 of 8 rows, left by 0.125 of 16 columns.
    equal = np.tile(np.array([1, -0.5])[:, None, None], (1, 1, CONTROL_POINTS, CONTROL_POINTS))
    field = draw_displacements(params(elastic=0.25), 1, (8, 16), FixedDraws(*equal))
    assert field is not None
    assert field.dtype == np.float32
    assert field[0, 0] == pytest.approx(np.full(8 * 16, 2.0))
    assert field[0, 1] == pytest.approx(np.full(8 * 16, -2.0))


def test_a_displacement_field_is_smooth_and_bounded() -> None:
    field = draw_displacements(params(elastic=0.1), 50, (28, 28), np.random.default_rng(0))
    assert field is not None
    assert field.shape == (50, 2, 28 * 28)
    assert np.abs(field).max() <= 0.1 * 28
    assert field.std() > 0.5  # pixels
    image = field.reshape(50, 2, 28, 28)
    # A cubic B-spline's slope is at most the step between control points: 5.6 in 7 pixels.
    assert max(np.abs(np.diff(image, axis=axis)).max() for axis in (2, 3)) <= 0.8 + 1e-5


def test_affine_maps_by_hand() -> None:
    draw = (1.0, 0.5, -0.5, 1.0, 1.0, -0.5)
    [[rows, columns]] = draw_affines(params(**ALL_WARPS), 1, (10, 20), FixedDraws(draw))
    cosine, sine, tangent = math.sqrt(3) / 2, 0.5, math.tan(math.pi / 12)  # 30 and 15 degrees
    assert rows.tolist() == pytest.approx([(cosine + tangent * sine) / 1.1, sine / 1.1, 1.0])
    assert columns.tolist() == pytest.approx([(tangent * cosine - sine) / 0.9, cosine / 0.9, -1.0])


def test_images_of_a_group_share_a_draw() -> None:
    # 9 images in groups of up to 4 make 3 groups; image i belongs to group i modulo 3.
    images = random_images(9, 3, 9, 14)
    changed = augment(images, params(**ALL_WARPS), np.random.default_rng(5))
    one_each = params(**ALL_WARPS, images_per_draw=1)
    for part in (slice(0, 3), slice(3, 6), slice(6, 9)):
        alone = augment(images[part], one_each, np.random.default_rng(5))
        assert np.array_equal(changed[part], alone)


@pytest.mark.parametrize(
    ("count", "images_per_draw", "groups", "elastic"),
    [(8, 4, 2, 0.1), (9, 4, 3, 0.0), (3, 4, 1, 0.1), (5, 1, 5, 0.0)],
)
def test_the_number_of_draws_depends_on_the_groups_alone(
    count: int, images_per_draw: int, groups: int, elastic: float
) -> None:
    used, expected = np.random.default_rng(3), np.random.default_rng(3)
    settings = params(**ALL_WARPS | {"images_per_draw": images_per_draw, "elastic": elastic})
    images = random_images(count, 3, 9, 14)
    before = images.copy()
    changed = augment(images, settings, used)
    assert np.array_equal(images, before)
    expected.uniform(size=(6 + (2 * CONTROL_POINTS**2 if elastic else 0)) * groups)
    assert changed.shape == (count, 3, 9, 14)
    assert used.random() == expected.random()


def test_flip_mirrors_some_images() -> None:
    images = random_images(400, 3, 4, 5)
    flipped = flip(images, 0.25, np.random.default_rng(1))
    mirrored = np.array(
        [np.array_equal(one, other[:, :, ::-1]) for one, other in zip(flipped, images, strict=True)]
    )
    assert np.array_equal(flipped[~mirrored], images[~mirrored])
    assert 70 < mirrored.sum() < 130
    assert np.array_equal(flip(images, 1.0, np.random.default_rng(1)), images[..., ::-1])


def test_a_crop_is_a_window_of_the_padded_image() -> None:
    padding = 2
    images = random_images(300, 2, 6, 5)
    cropped = crop(images, padding, np.random.default_rng(1))
    padded = np.pad(images, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    seen = set()
    for one, other in zip(cropped, padded, strict=True):
        places = {
            (down, right)
            for down, right in product(range(2 * padding + 1), repeat=2)
            if np.array_equal(one, other[:, down : down + 6, right : right + 5])
        }
        assert places
        seen |= places
    assert len(seen) == (2 * padding + 1) ** 2


def test_cutout_fills_a_square_with_the_mean() -> None:
    images = np.full((500, 2, 8, 9), 255, np.uint8)
    cut = cutout(images, 3, (0.2, 0.6), np.random.default_rng(0))
    areas = set()
    for image in cut:
        assert set(np.unique(image[0])) == {51, 255}
        rows, columns = np.nonzero(image[0] == 51)
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert len(rows) == height * width  # a rectangle: a square, clipped at the edges
        assert np.array_equal(image[1] == 153, image[0] == 51)
        areas.add((int(height), int(width)))
    assert areas == set(product((2, 3), repeat=2))


def windows(image: np.ndarray, height: int, width: int) -> set[bytes]:
    """Return what torchvision resizes each crop of this size to."""
    rows, columns = image.shape[1:]
    return {
        transforms.resized_crop(torch.from_numpy(image), top, left, height, width, [rows, columns])
        .numpy()
        .tobytes()
        for top, left in product(range(rows - height + 1), range(columns - width + 1))
    }


@pytest.mark.parametrize(
    ("area", "turn", "height", "width"),
    [
        (0.25, 0.0, 8, 10),
        (0.25, 1.0, 7, 12),  # 16 * sqrt(0.25 * 3 / 4) = 6.93 and 20 * sqrt(0.25 * 4 / 3) = 11.55
        (0.25, -1.0, 9, 9),  # 16 * sqrt(0.25 * 4 / 3) = 9.24 and 20 * sqrt(0.25 * 3 / 4) = 8.66
        (0.81, 1.0, 13, 20),  # 0.81 * 16 = 12.96: no wider than the image
        (1.0, -1.0, 16, 20),
    ],
)
def test_a_resized_crop_is_torchvisions(area: float, turn: float, height: int, width: int) -> None:
    image = random_images(1, 3, 16, 20)
    count = 1000
    draws = FixedDraws(*np.repeat([[area], [turn]], count, axis=1))
    crops = resized_crop(np.repeat(image, count, axis=0), 0.08, draws)
    assert {crop.tobytes() for crop in crops} == windows(image[0], height, width)


def test_resized_crops_have_the_areas_asked_for() -> None:
    """Of a ramp to the right, what is left spans the crop's share of the width."""
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))
    both = np.stack([ramp, ramp.T])
    crops = resized_crop(np.repeat(both[None], 2000, axis=0), 0.3, np.random.default_rng(0))
    wide, tall = (crops.max(axis=(2, 3)) - crops.min(axis=(2, 3))).T / 252
    assert wide * tall == pytest.approx(np.clip(wide * tall, 0.27, 1))
    assert np.quantile(wide * tall, [0.25, 0.5, 0.75]) == pytest.approx(
        [0.475, 0.65, 0.825], abs=0.03
    )
    assert [(wide / tall).min(), (wide / tall).max()] == pytest.approx([0.75, 4 / 3], abs=0.05)


def recoloured(image: np.ndarray, draw: tuple[float, ...], **amounts: float) -> np.ndarray:
    """Change the colours by draws of brightness, contrast, saturation and hue."""
    changed: np.ndarray = augment(image[None], params(**amounts), FixedDraws(draw))[0]
    return changed


def test_colours_change_as_torchvisions() -> None:
    """But for the hue, and where torchvision clips between two steps."""
    image = random_images(1, 3, 9, 7)[0] // 2 + 64
    amounts = {"brightness": 0.2, "contrast": 0.4, "saturation": 0.4}
    expected = torch.from_numpy(image / 255).float()
    for name, factor in (("brightness", 1.1), ("contrast", 0.7), ("saturation", 1.3)):
        expected = getattr(transforms, f"adjust_{name}")(expected, factor)
    changed = recoloured(image, (0.5, -0.75, 0.75, 0), **amounts)
    assert changed == pytest.approx(255 * expected.numpy(), abs=0.01)  # its weight of red is 0.2989


def test_grey_images_become_brighter_and_richer_in_contrast() -> None:
    image = np.array([[[60, 100, 140]]], np.uint8)  # mean 100
    assert recoloured(image, (1, 0, 0, 0), brightness=0.5).tolist() == [[[90, 150, 210]]]
    assert recoloured(image, (0, -1, 0, 0), contrast=0.5).tolist() == [[[80, 100, 120]]]
    assert recoloured(image, (1, 1, 0, 0), brightness=1, contrast=1).tolist() == [[[40, 200, 255]]]


def test_a_hue_turns_and_keeps_its_luma() -> None:
    luma = np.array([0.299, 0.587, 0.114])
    pixel = np.array([140, 100, 80])
    image = pixel.astype(np.uint8)[:, None, None]
    half = recoloured(image, (0, 0, 0, 1), hue=0.5).ravel()
    assert half == pytest.approx(2 * luma @ pixel - pixel, abs=1e-3)  # the opposite colour
    third = recoloured(image, (0, 0, 0, 1), hue=1 / 3).ravel()
    # By the rotation matrix of YIQ, I + i Q = (33.4 + 13.9 i) turned by 120 degrees.
    turned = complex(0.596, 0.211) * 140 - complex(0.274, 0.523) * 100 + complex(-0.322, 0.312) * 80
    turned *= complex(-0.5, math.sqrt(3) / 2)
    to_rgb = np.array([[0.956, 0.621], [-0.272, -0.647], [-1.106, 1.703]])
    expected = luma @ pixel + to_rgb @ [turned.real, turned.imag]
    assert third == pytest.approx(expected, abs=0.1)  # the matrices have three decimals
    assert luma @ third == pytest.approx(luma @ pixel, abs=0.05)
    grey = np.full((3, 1, 1), 77, np.uint8)
    assert recoloured(grey, (0, 0, 1, 1), hue=0.5, saturation=1) == pytest.approx(77, abs=1e-3)


def test_colours_need_images_in_colour() -> None:
    for name in ("saturation", "hue"):
        said = said_by(ParamsError, params(**{name: 0.25}).check_channels, 1)
        assert said == (
            f"params.yaml: train.augmentation.{name}: 0.25 needs images with 3 channels, but these "
            "have 1; set it to 0"
        )
    params(saturation=0.25, hue=0.25).check_channels(3)
    params(brightness=0.25, contrast=0.25, min_crop_scale=0.25).check_channels(1)


def test_what_is_off_is_neither_drawn_nor_in_the_model_file() -> None:
    images, rng = random_images(3, 3, 8, 8), np.random.default_rng(0)
    unchanged = augment(images, params(), rng)
    assert unchanged.dtype == np.float32
    assert np.array_equal(unchanged, images)
    assert rng.random() == np.random.default_rng(0).random()
    assert set(params().model_dump(exclude_defaults=True)) == {
        *("rotation", "scale", "shear", "translation", "elastic", "images_per_draw"),
        *("horizontal_flip", "crop_padding", "cutout", "custom"),
    }
    assert params(min_crop_scale=0.5).enabled


def test_all_augmentations_draw_from_the_generator() -> None:
    """Warps draw first, so the others do not change their draws."""
    images = random_images(20, 3, 8, 8)
    params = COMMITTED.model_copy(
        update={"horizontal_flip": 0.5, "crop_padding": 2, "cutout": 3, "images_per_draw": 4}
        | {"min_crop_scale": 0.5, "brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.1}
    )
    one, same, other = (
        augment(images, params, np.random.default_rng(seed), None, (0.5,) * 3) for seed in (0, 0, 1)
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    flat = params.model_copy(
        update=dict.fromkeys(WARPS + COLOURS, 0.0) | {"cutout": 0, "crop_padding": 0}
    )
    assert flat.enabled
    none = flat.model_copy(update={"horizontal_flip": 0.0, "min_crop_scale": 1.0})
    assert not none.enabled
    assert none.model_copy(update={"custom": "own"}).enabled
    assert set(np.unique(augment(images, flat, np.random.default_rng(0)))) <= set(range(256))


def test_crop_and_cutout_may_leave_nothing_of_an_image() -> None:
    images = np.full((5000, 1, 4, 5), 255, np.uint8)
    cropped = crop(images, 7, np.random.default_rng(0))
    kept = {int(np.count_nonzero(image)) for image in cropped}
    assert kept == {rows * columns for rows in range(5) for columns in range(6)}
    assert not cutout(images, 10, (0.0,), np.random.default_rng(0)).any()


def apply_custom(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> np.ndarray:
    (folder / f"{name}.py").write_text(f"import torch\n\n{code}\n")
    monkeypatch.setattr(augmentations, "__path__", [str(folder)])
    images = np.zeros((2, 3, 4, 4), np.float32)
    return custom.apply(custom.load(name), images, (0, 1))


def test_a_custom_augmentation_may_draw_from_the_global_generator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As well as from its own, as the example of docs/data-sets.md does."""
    code = "def augment(images, generator):\n    return images + torch.rand(images.shape)"
    one, same = (apply_custom(code, tmp_path, monkeypatch, "custom_draws") for _ in range(2))
    assert np.array_equal(one, same)
    assert len(np.unique(one)) > 90


def test_the_template_changes_nothing() -> None:
    images = random_images(2, 3, 4, 4).astype(np.float32)
    assert np.array_equal(custom.apply(custom.load("none"), images, (0,)), images)


MISTAKES = {
    "augment = 3": "has no function `augment`",
    "import not_there_at_all": "cannot be imported: No module named 'not_there_at_all'",
    "def augment(:": "cannot be imported: invalid syntax (custom_mistake_2.py, line 3)",
    "def augment(images, generator):\n    return images[9]": "fails: index 9 is out of bounds",
    "def augment(images):\n    return images": "fails: augment() takes 1 positional argument",
    "def augment(images, generator):\n    return None": "returned NoneType, not torch.float32",
    "def augment(images, generator):\n    return images.double()": "returned torch.float64 [2,",
    "def augment(images, generator):\n    return images[:, 1:]": "returned torch.float32 [2, 2,",
}


@pytest.mark.parametrize(("number", "code"), list(enumerate(MISTAKES)))
def test_mistakes_in_a_custom_augmentation(
    number: int, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"custom_mistake_{number}"
    message = said_by(ParamsError, apply_custom, code, tmp_path, monkeypatch, name)
    place = f"src/image_pipeline/augmentations/custom_mistake_{number}.py"
    assert message.startswith(f"params.yaml: train.augmentation.custom: {place} {MISTAKES[code]}")
    assert ("(line 4)" in message) == ("index 9" in message)
