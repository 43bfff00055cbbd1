"""Conversion to MNIST's format: MNIST's digits drawn on synthetic paper, and real photographs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from image_pipeline.common.errors import DataError
from image_pipeline.modeling.model_file import read_model
from image_pipeline.prediction import mnist_format
from image_pipeline.prediction.inputs import ImageInput
from image_pipeline.prediction.mnist_format import is_mnist_format
from image_pipeline.prediction.predictor import Predictor
from image_pipeline.prediction.preprocessing import Mode, Preprocessor
from image_pipeline.prediction.streaming import Prediction, predict_files
from image_pipeline.reading.idx import iterate_idx
from prediction.digit_scenes import (
    Scene,
    beside_another,
    cropped,
    in_a_band_of_shadow,
    in_a_shadow,
    in_a_window,
    on_a_desk,
)
from prediction.prediction_files import image_file
from project import SHARED_MNIST, Project, require

# Photographs and scans by others, listed in SOURCES.md.
PHOTOGRAPHS = Path(__file__).with_name("photographs")
FILES = sorted(PHOTOGRAPHS.glob("*/[0-9]/*"))


def paper(height: int, width: int, ink: np.ndarray, row: int, column: int) -> np.ndarray:
    """Return a light sheet with ink (0 to 1) at a position; float64 `[H, W]`, 0 to 255."""
    sheet = np.full((height, width), 225.0)
    sheet[row : row + ink.shape[0], column : column + ink.shape[1]] -= 170 * ink
    return sheet


def enlarged(digit: np.ndarray, size: int) -> np.ndarray:
    """Enlarge an MNIST digit; return ink, 0 to 1, with sharp edges."""
    large = Image.fromarray(digit).resize((size, size), Image.Resampling.BICUBIC)
    ink: np.ndarray = np.clip(np.asarray(large) / 128 - 0.5, 0, 1)
    return ink


def shade(sheet: np.ndarray) -> np.ndarray:
    """Light the sheet from the upper left; the lower right gets a third of the light."""
    rows, columns = (np.linspace(0, 1, side) for side in sheet.shape)
    shaded: np.ndarray = sheet * (1 - 0.33 * rows[:, None] - 0.33 * columns)
    return shaded


def photograph(sheet: np.ndarray) -> np.ndarray:
    clipped: np.ndarray = np.clip(sheet, 0, 255)
    return clipped.astype(np.uint8)


SEVEN = np.zeros((28, 28), np.uint8)
SEVEN[5:8, 7:21] = SEVEN[8:24, 14:17] = 255


def to_mnist_format(image: np.ndarray, *, deskew: bool = False) -> np.ndarray:
    return mnist_format.to_mnist_format(image, deskew=deskew).pixels


def strokes(image: np.ndarray) -> np.ndarray:
    return image > 127


def similar(one: np.ndarray, other: np.ndarray, at_least: float = 0.9) -> bool:
    """Tell whether the strokes' intersection over union is large."""
    both, either = strokes(one) & strokes(other), strokes(one) | strokes(other)
    return bool(both.sum() >= at_least * either.sum())


def reference(size: int = 140) -> np.ndarray:
    return to_mnist_format(photograph(paper(300, 400, enlarged(SEVEN, size), 80, 150)))


def test_the_digit_is_20_pixels_long_with_its_centre_of_mass_at_the_centre() -> None:
    found = reference()
    rows, columns = np.nonzero(found)
    assert found.shape == (28, 28)
    assert found.dtype == np.uint8
    # The seven has 19 x 14 pixels.
    assert [int(np.ptp(each)) + 1 for each in (rows, columns)] == [20, 15]
    weights = found[rows, columns].astype(int)
    for positions in (rows, columns):
        assert abs((positions * weights).sum() / weights.sum() - 13.5) <= 0.5
    assert is_mnist_format(found)


@pytest.mark.parametrize(("size", "row", "column"), [(60, 0, 0), (100, 195, 290), (299, 0, 100)])
def test_any_size_and_place(size: int, row: int, column: int) -> None:
    sheet = paper(300, 400, enlarged(SEVEN, size), row, column)
    assert similar(to_mnist_format(photograph(sheet)), reference())


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
def test_shading_specks_lines_frames_and_inversion_change_nothing(
    change: Callable[[np.ndarray], np.ndarray],
) -> None:
    sheet = change(paper(300, 400, enlarged(SEVEN, 140), 80, 150))
    assert similar(to_mnist_format(photograph(sheet)), reference())


def test_specks_that_were_left_out_are_counted() -> None:
    sheet = paper(300, 400, enlarged(SEVEN, 140), 80, 150)
    assert mnist_format.to_mnist_format(photograph(sheet)).left_out == ()
    for row, count in ((20, "1 speck"), (260, "2 specks")):
        sheet[row : row + 3, 40:43] = 40
        assert mnist_format.to_mnist_format(photograph(sheet)).left_out == (count,)


def test_coloured_ink() -> None:
    light = photograph(paper(300, 400, enlarged(SEVEN, 140), 80, 150))
    red = np.stack([np.full_like(light, 225), light, light], axis=2)
    assert similar(to_mnist_format(red), reference())


def test_a_thin_pen_is_widened() -> None:
    sheet = np.full((400, 400), 230, np.uint8)
    sheet[100:300, 199:202] = 20  # 1.5% of its length; of MNIST's, 95% are wider than 8%
    widths = strokes(to_mnist_format(sheet)).sum(1)
    assert set(widths[widths > 0]) == {2}


def test_deskewing_makes_a_slanted_stroke_vertical() -> None:
    sheet = np.full((200, 200), 230, np.uint8)
    for row in range(40, 160):
        sheet[row, 130 - row // 2 : 142 - row // 2] = 20

    def width(image: np.ndarray) -> int:
        return int(np.ptp(np.nonzero(strokes(image))[1])) + 1

    assert width(to_mnist_format(sheet)) >= 9
    assert width(to_mnist_format(sheet, deskew=True)) <= 3


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
def test_blank_images_are_refused(image: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"^no strokes found: a photograph or scan of one digit"):
        to_mnist_format(image)


FIVE = np.zeros((28, 28), np.uint8)
FIVE[4:7, 8:20] = FIVE[4:14, 8:11] = FIVE[11:14, 8:18] = 255
FIVE[13:24, 16:19] = FIVE[21:24, 7:18] = 255


def box(digit: np.ndarray, size: int) -> np.ndarray:
    """Return a digit's ink, cropped to its box, 0 to 1."""
    ink = enlarged(digit, size)
    rows, columns = (np.flatnonzero(ink.max(axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


SCENES = [on_a_desk, in_a_shadow, in_a_band_of_shadow, in_a_window, cropped]


@pytest.mark.parametrize("digit", [SEVEN, FIVE])
@pytest.mark.parametrize("scene", SCENES)
def test_desks_shadows_windows_and_tight_crops_change_nothing(
    scene: Scene, digit: np.ndarray
) -> None:
    plain = to_mnist_format(photograph(paper(300, 400, enlarged(digit, 180), 80, 150)))
    for seed in range(2):
        found = mnist_format.to_mnist_format(scene(box(digit, 180), np.random.default_rng(seed)))
        assert similar(found.pixels, plain, 0.6)  # the sheet on the desk is turned
        assert not found.doubts


Line = list[tuple[int, int]]


def drawn(lines: list[Line], width: int, height: int, thickness: int) -> np.ndarray:
    """Return a crop of light paper with strokes in dark ink, which its rim may cut."""
    image = Image.new("L", (width, height), 225)
    for line in lines:
        ImageDraw.Draw(image).line(line, 55, thickness, "curve")
    return np.asarray(image)


EDGE, LINE = "its strokes touch an edge", "a line is like its strokes"


@pytest.mark.parametrize(
    ("lines", "width", "height", "doubt"),
    [
        ([[(0, 4), (90, 4), (30, 130)]], 112, 159, LINE),  # a seven without its bar is a one
        ([[(0, 6), (84, 4), (90, 12), (30, 140)]], 112, 159, EDGE),
        ([[(50, 5), (6, 100), (153, 110)], [(110, 0), (105, 273)]], 154, 274, LINE),
        (  # half of a zero is another digit
            [
                [(60, 16), (20, 50), (2, 90), (20, 150)],
                [(85, 12), (140, 50), (135, 120), (90, 180), (45, 178)],
            ],
            220,
            240,
            EDGE,
        ),
    ],
    ids=["seven", "bent seven", "four", "zero"],
)
def test_strokes_at_the_rim_that_were_left_out_make_a_doubt(
    lines: list[Line], width: int, height: int, doubt: str
) -> None:
    found = mnist_format.to_mnist_format(drawn(lines, width, height, 8))
    assert doubt in found.doubts


def test_a_line_that_strokes_cross_everywhere_is_none() -> None:
    with Image.open(PHOTOGRAPHS / "wichtounet-sudoku" / "7" / "image2003-04.webp") as image:
        assert not mnist_format.to_mnist_format(np.asarray(image)).doubts


def test_a_faint_rest_of_strokes_at_the_rim_is_not_read_in_their_place() -> None:
    seven = [(5, 55), (9, 18), (189, 6), (129, 110), (7, 295)]
    whole = drawn([[(x + 40, y + 40) for x, y in seven]], 280, 380, 20)
    found = mnist_format.to_mnist_format(photograph(shade(drawn([seven], 200, 300, 20))))
    assert similar(found.pixels, to_mnist_format(whole), 0.8)


def test_strokes_of_one_digit_are_joined_and_two_digits_are_doubted() -> None:
    apart = FIVE.copy()
    apart[7:9] = 0  # its bar
    sheet = photograph(paper(300, 400, enlarged(apart, 180), 80, 150))
    found = mnist_format.to_mnist_format(sheet)
    assert not found.doubts
    assert np.flatnonzero(found.pixels.max(1))[[0, -1]].tolist() == [4, 23]
    for seed in range(4):
        two = beside_another(box(FIVE, 150), np.random.default_rng(seed))
        assert mnist_format.to_mnist_format(two).doubts == ("several marks of like size",)


def mnist(name: str, rank: int, rows: int) -> np.ndarray:
    require(SHARED_MNIST.is_dir(), "a copy of MNIST in ../shared")
    chunks = iterate_idx(SHARED_MNIST / f"{name}-ubyte.gz", rank, rows=rows)
    first: np.ndarray = next(iter(chunks))
    return first


def test_mnists_test_images_have_its_format_already() -> None:
    assert all(is_mnist_format(image) for image in mnist("t10k-images-idx3", 3, 10_000))


@pytest.mark.parametrize(
    "image",
    [
        255 - reference(),
        np.roll(reference(), 6, axis=1),
        np.pad(reference()[8:20, 8:20], 8),
        np.pad(reference(), 1),
        np.zeros((28, 28), np.uint8),
        np.stack([reference(), 255 - reference(), reference()], axis=2),
    ],
)
def test_other_images_do_not_have_mnists_format(image: np.ndarray) -> None:
    assert is_mnist_format(reference())
    assert not is_mnist_format(image)


@pytest.mark.slow
def test_nine_of_ten_photographs_are_classified_right(mnist_run: tuple[Project, str, str]) -> None:
    """With the trained model; compared with resizing alone."""
    model = mnist_run[0].root / "models" / "model.safetensors"
    digits = [path.parent.name for path in FILES]

    def accuracy(mode: Mode) -> float:
        preprocessor = Preprocessor.for_model(read_model(model)[1], mode)
        inputs = [ImageInput(str(path)) for path in FILES]
        found = list(predict_files(inputs, model, preprocessor))
        names = [each.class_name if isinstance(each, Prediction) else "" for each in found]
        return float(np.mean([name == digit for name, digit in zip(names, digits, strict=True)]))

    converted, resized = accuracy("auto"), accuracy("as-trained")
    print(f"{len(FILES)} photographs: {converted:.1%}, by resizing alone {resized:.1%}")
    assert len(FILES) >= 200
    assert converted >= 0.9 > resized


@pytest.mark.slow
def test_mnists_digits_on_shaded_ruled_paper_are_classified_right(
    mnist_run: tuple[Project, str, str],
) -> None:
    count, rng = 200, np.random.default_rng(0)
    digits = mnist("t10k-labels-idx1", 1, count).astype(int)
    sheets = []
    for image in mnist("t10k-images-idx3", 3, count):
        size = int(rng.integers(60, 250))
        row, column = (int(rng.integers(0, side - size)) for side in (300, 400))
        sheet = shade(ruled(paper(300, 400, enlarged(image, size), row, column)))
        sheets.append(photograph(sheet + rng.normal(0, 4, sheet.shape)))
    predictor = Predictor(mnist_run[0].root / "models" / "model.safetensors")

    def accuracy(images: list[np.ndarray]) -> float:
        found = predictor.predict(np.stack(images)[:, None]).probabilities.argmax(1)
        return float(np.mean(found == digits))

    assert accuracy([to_mnist_format(sheet) for sheet in sheets]) >= 0.9
    assert accuracy([np.asarray(Image.fromarray(s).resize((28, 28))) for s in sheets]) < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("scene", SCENES)
def test_mnists_digits_in_photographs_are_classified_right(
    scene: Scene, mnist_run: tuple[Project, str, str]
) -> None:
    count, rng = 100, np.random.default_rng(1)
    images, digits = mnist("t10k-images-idx3", 3, count), mnist("t10k-labels-idx1", 1, count)
    scenes = (scene(box(image, int(rng.integers(130, 240))), rng) for image in images)
    inputs = [ImageInput("scene", image_file(each)) for each in scenes]
    model = mnist_run[0].root / "models" / "model.safetensors"
    found = list(predict_files(inputs, model))
    right, sure = np.zeros((2, count), bool)
    for row, (each, digit) in enumerate(zip(found, digits, strict=True)):
        if isinstance(each, Prediction):  # a 1 that fills its box is refused
            right[row], sure[row] = each.class_name == str(digit), not each.doubtful
    print(f"{scene.__name__}: {right.mean():.0%} right, {(~right & sure).mean():.0%} not, but sure")
    assert right.mean() >= 0.9
    assert (~right & sure).mean() <= 0.03
