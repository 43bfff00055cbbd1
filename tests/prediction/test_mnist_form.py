"""MNIST's own digits as ink on paper of many kinds, and photographs that others took."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from image_pipeline.common.errors import DataError
from image_pipeline.datasets.idx import iterate_idx
from image_pipeline.modeling.inference import normalise
from image_pipeline.modeling.model_file import read_model
from image_pipeline.prediction.mnist_form import is_in_mnist_form, to_mnist
from image_pipeline.prediction.predictor import Predictor
from image_pipeline.prediction.preparation import Prepare
from image_pipeline.prediction.sources import Source
from image_pipeline.prediction.streaming import Prediction, predict_files
from project import SHARED_MNIST, Project, require

# Photographs and scans that others made; SOURCES.md says where they are from. The preparation was
# made with other images.
PHOTOGRAPHS = Path(__file__).with_name("photographs")
FILES = sorted(PHOTOGRAPHS.glob("*/[0-9]/*"))


def paper(height: int, width: int, ink: np.ndarray, row: int, column: int) -> np.ndarray:
    """Return a white sheet with ink, values 0 to 1, put on it; float64 `[H, W]`, 0 to 255."""
    sheet = np.full((height, width), 225.0)
    sheet[row : row + ink.shape[0], column : column + ink.shape[1]] -= 170 * ink
    return sheet


def enlarged(digit: np.ndarray, size: int) -> np.ndarray:
    """Return a digit of MNIST as ink, 0 to 1, with edges as sharp as a pen's."""
    large = Image.fromarray(digit).resize((size, size), Image.Resampling.BICUBIC)
    ink: np.ndarray = np.clip(np.asarray(large) / 128 - 0.5, 0, 1)
    return ink


def shade(sheet: np.ndarray) -> np.ndarray:
    """Let the light fall from the upper left: the lower right gets a third of it."""
    rows, columns = (np.linspace(0, 1, side) for side in sheet.shape)
    shaded: np.ndarray = sheet * (1 - 0.33 * rows[:, None] - 0.33 * columns)
    return shaded


def photograph(sheet: np.ndarray) -> np.ndarray:
    seen: np.ndarray = np.clip(sheet, 0, 255)
    return seen.astype(np.uint8)


SEVEN = np.zeros((28, 28), np.uint8)
SEVEN[5:8, 7:21] = SEVEN[8:24, 14:17] = 255


def strokes(image: np.ndarray) -> np.ndarray:
    return image > 127


def alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Tell whether nine of ten pixels that are white in either image are white in both."""
    both, either = strokes(one) & strokes(other), strokes(one) | strokes(other)
    return bool(10 * both.sum() >= 9 * either.sum())


def plain(size: int = 140) -> np.ndarray:
    return to_mnist(photograph(paper(300, 400, enlarged(SEVEN, size), 80, 150)))


def test_the_box_is_twenty_long_and_its_centre_of_mass_in_the_middle() -> None:
    found = plain()
    rows, columns = np.nonzero(found)
    assert found.shape == (28, 28)
    assert found.dtype == np.uint8
    assert [int(np.ptp(found)) + 1 for found in (rows, columns)] == [
        20,
        15,
    ]  # 19 x 14 pixels of a seven
    weights = found[rows, columns].astype(int)
    for positions in (rows, columns):
        assert abs((positions * weights).sum() / weights.sum() - 13.5) <= 0.5
    assert is_in_mnist_form(found)


@pytest.mark.parametrize(("size", "row", "column"), [(60, 0, 0), (100, 195, 290), (299, 0, 100)])
def test_any_size_and_place(size: int, row: int, column: int) -> None:
    sheet = paper(300, 400, enlarged(SEVEN, size), row, column)
    assert alike(to_mnist(photograph(sheet)), plain())


def spotted(sheet: np.ndarray) -> np.ndarray:
    sheet = sheet.copy()
    for row, column in np.random.default_rng(0).integers(0, (297, 397), (40, 2)):
        sheet[row : row + 3, column : column + 3] = 40
    return sheet


def ruled(sheet: np.ndarray) -> np.ndarray:
    sheet = sheet.copy()
    sheet[17::35] = np.minimum(sheet[17::35], 130)
    sheet[18::35] = np.minimum(sheet[18::35], 130)
    return sheet


def framed(sheet: np.ndarray) -> np.ndarray:
    sheet = sheet.copy()
    sheet[3:9] = sheet[:, 390:397] = 20
    return sheet


@pytest.mark.parametrize("change", [shade, spotted, ruled, framed, lambda sheet: 255 - sheet])
def test_what_else_is_on_a_photograph(change: Callable[[np.ndarray], np.ndarray]) -> None:
    sheet = change(paper(300, 400, enlarged(SEVEN, 140), 80, 150))
    assert alike(to_mnist(photograph(sheet)), plain())


def test_coloured_ink() -> None:
    light = photograph(paper(300, 400, enlarged(SEVEN, 140), 80, 150))
    red = np.stack([np.full_like(light, 225), light, light], axis=2)
    assert alike(to_mnist(red), plain())


def test_a_thin_pen_is_widened() -> None:
    sheet = np.full((400, 400), 230, np.uint8)
    sheet[100:300, 199:202] = 20  # 1.5% of its length; of MNIST's, 95% are wider than 8%
    widths = strokes(to_mnist(sheet)).sum(1)
    assert set(widths[widths > 0]) == {2}


def test_a_slanted_stroke_is_set_upright_on_demand() -> None:
    sheet = np.full((200, 200), 230, np.uint8)
    for row in range(40, 160):
        sheet[row, 130 - row // 2 : 142 - row // 2] = 20

    def width(image: np.ndarray) -> int:
        return int(np.ptp(np.nonzero(strokes(image))[1])) + 1

    assert width(to_mnist(sheet)) >= 9
    assert width(to_mnist(sheet, deskew=True)) <= 3


@pytest.mark.parametrize(
    "image",
    [
        np.full((200, 300), 255, np.uint8),
        np.full((200, 300, 3), 90, np.uint8),
        np.zeros((1, 1), np.uint8),
        np.zeros((5, 3000), np.uint8),
        photograph(shade(np.full((200, 300), 225.0))),
        photograph(225 + np.random.default_rng(0).normal(0, 2, (200, 300))),
    ],
)
def test_a_blank_sheet(image: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"^no strokes found: a photograph or scan of one digit"):
        to_mnist(image)


def mnist(name: str, rank: int, rows: int) -> np.ndarray:
    require(SHARED_MNIST.is_dir(), "a copy of MNIST in ../shared")
    chunks = iterate_idx(SHARED_MNIST / f"{name}-ubyte.gz", rank, rows=rows)
    first: np.ndarray = next(iter(chunks))
    return first


def test_mnists_test_images_are_in_its_form_already() -> None:
    assert all(is_in_mnist_form(image) for image in mnist("t10k-images-idx3", 3, 10_000))


@pytest.mark.parametrize(
    "image",
    [
        255 - plain(),
        np.roll(plain(), 6, axis=1),
        np.pad(plain()[8:20, 8:20], 8),
        np.pad(plain(), 1),
        np.zeros((28, 28), np.uint8),
        np.stack([plain(), 255 - plain(), plain()], axis=2),
    ],
)
def test_what_is_not_in_mnists_form(image: np.ndarray) -> None:
    assert is_in_mnist_form(plain())
    assert not is_in_mnist_form(image)


@pytest.fixture(scope="module")
def answers(mnist_run: tuple[Project, str, str]) -> Callable[[list[np.ndarray]], np.ndarray]:
    """Return a function that asks the committed pipeline's model about images of MNIST's form."""
    model, card = read_model(mnist_run[0].root / "models" / "model.safetensors")

    def ask(images: list[np.ndarray]) -> np.ndarray:
        with torch.no_grad():
            pixels = normalise(np.stack(images)[:, None], card.data)
            answered: np.ndarray = model(torch.from_numpy(pixels)).argmax(1).numpy()
            return answered

    return ask


@pytest.mark.slow
def test_nine_of_ten_photographs_are_told(mnist_run: tuple[Project, str, str]) -> None:
    """By the committed pipeline's model; beside it, what it makes of them by resizing alone."""
    model = mnist_run[0].root / "models" / "model.safetensors"
    digits = [path.parent.name for path in FILES]

    def right(how: Prepare) -> float:
        preparation = Predictor(model).preparation(how)
        found = list(predict_files([Source(str(path)) for path in FILES], model, preparation))
        names = [one.class_name if isinstance(one, Prediction) else "" for one in found]
        return float(np.mean([name == digit for name, digit in zip(names, digits, strict=True)]))

    prepared, resized = right("auto"), right("as-trained")
    print(f"{len(FILES)} photographs: {prepared:.1%}, by resizing alone {resized:.1%}")
    assert len(FILES) >= 200
    assert prepared >= 0.9 > resized


@pytest.mark.slow
def test_mnists_digits_on_shaded_ruled_paper_are_told(
    answers: Callable[[list[np.ndarray]], np.ndarray],
) -> None:
    count, chance = 200, np.random.default_rng(0)
    digits = mnist("t10k-labels-idx1", 1, count).astype(int)
    sheets = []
    for image in mnist("t10k-images-idx3", 3, count):
        size = int(chance.integers(60, 250))
        row, column = (int(chance.integers(0, side - size)) for side in (300, 400))
        sheet = shade(ruled(paper(300, 400, enlarged(image, size), row, column)))
        sheets.append(photograph(sheet + chance.normal(0, 4, sheet.shape)))
    prepared = answers([to_mnist(sheet) for sheet in sheets]) == digits
    resized = answers([np.asarray(Image.fromarray(s).resize((28, 28))) for s in sheets]) == digits
    assert prepared.mean() >= 0.9
    assert resized.mean() < 0.5
