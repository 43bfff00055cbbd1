"""Every plot accepts extreme data, and is the same bytes each time."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.font_manager import findfont
from PIL import Image

from image_pipeline.plotting.balance import draw_class_balance
from image_pipeline.plotting.classification import (
    draw_confusion_matrix,
    draw_f1_by_class,
    draw_reliability,
)
from image_pipeline.plotting.curves import draw_curves
from image_pipeline.plotting.figures import fonts
from image_pipeline.plotting.images import (
    MAX_UNITS,
    class_grid,
    draw_classes,
    draw_first_layer,
    draw_images,
    draw_saliency,
)
from image_pipeline.plotting.labels import MAX_LABEL_LENGTH, class_labels, label_inches, short_names

DPI = 50
Draw = Callable[[Path], None]


def confusion(names: list[str], errors: int) -> Draw:
    rng = np.random.default_rng(0)
    actual = rng.integers(0, len(names), 500)
    predicted = actual.copy()
    predicted[:errors] = (predicted[:errors] + 1) % len(names)
    table = pd.DataFrame(
        {"actual": np.array(names)[actual], "predicted": np.array(names)[predicted]}
    )
    return lambda path: draw_confusion_matrix(path, table, names, DPI)


def f1(names: list[str], scores: list[float]) -> Draw:
    table = pd.DataFrame({"class": names, "f1": scores})
    return lambda path: draw_f1_by_class(path, table, DPI)


def reliability(confidence: list[float]) -> Draw:
    table = pd.DataFrame({"confidence": confidence, "accuracy": confidence, "images": 7})
    return lambda path: draw_reliability(path, table, 0.01, DPI)


def images(count: int, channels: int, caption: str, *size: int) -> Draw:
    shape = (count, channels, *(size or (9, 14)))
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)
    return lambda path: draw_images(path, pixels, [caption] * count, "A title", DPI)


def saliency(count: int, channels: int, side: int) -> Draw:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, channels, side, side), np.uint8)
    maps = rng.random((count, side, side), np.float32)
    return lambda path: draw_saliency(path, pixels, maps, ["a\nb"] * count, "A title", DPI)


def balance(names: list[str], leak: str) -> Draw:
    counts = {
        split: np.arange(len(names)) * size
        for split, size in (("train", 9), ("validation", 1), ("test", 2))
    }
    return lambda path: draw_class_balance(path, counts, names, 10, leak, DPI)


def classes(names: list[str], channels: int, per_class: int) -> Draw:
    rng = np.random.default_rng(0)
    samples = [
        rng.integers(0, 256, (number % (per_class + 1), channels, 8, 8), np.uint8)
        for number in range(len(names))
    ]
    return lambda path: draw_classes(path, samples, names, "A title", DPI)


def first_layer(units: int, channels: int, scale: float) -> Draw:
    weights = scale * np.random.default_rng(0).standard_normal((units, channels, 2, 3))
    return lambda path: draw_first_layer(path, weights, DPI)


def history(epochs: int, scale: float = 1) -> pd.DataFrame:
    epoch = np.arange(1, epochs + 1)
    return pd.DataFrame(
        {
            "epoch": epoch,
            "train_loss": scale / epoch,
            "validation_loss": 2 * scale / epoch,
            "train_accuracy": 1 - scale / epoch,
            "validation_accuracy": 0.9,
        }
    )


def curves(epochs: int, *scales: float) -> Draw:
    return lambda path: draw_curves(path, *(history(epochs, scale) for scale in scales or (1,)))


LONG = ["the Pembroke Welsh corgi, a herding dog", "Ünïcödé", "$^$ sign", 'a "quoted", 犬 name']
MANY = [f"class {number}" for number in range(100)]
CASES: dict[str, tuple[Draw, tuple[int, int]]] = {
    # width and height in pixels: 50 per inch, 100 for the curves
    "confusion of 2 classes": (confusion(["a", "b"], 20), (350, 300)),
    "confusion without errors": (confusion(list("0123456789"), 0), (375, 325)),
    "confusion of long names": (confusion(LONG, 30), (417, 367)),
    "confusion of 100 classes": (confusion(MANY, 100), (1568, 1518)),
    "f1 of 2 classes": (f1(["a", "b"], [0.5, 1.0]), (350, 150)),
    "f1 of zeros": (f1(["a", "b"], [0.0, 0.0]), (350, 150)),
    "f1 of long names": (f1(LONG, [0.9, 0.8, 0.7, 0.6]), (417, 150)),
    "f1 of 100 classes": (f1(MANY, np.linspace(0, 1, 100).tolist()), (368, 1760)),
    "reliability": (reliability([0.1, 0.5, 0.9]), (300, 300)),
    "reliability of one bin": (reliability([1.0]), (300, 300)),
    "one image": (images(1, 1, "a"), (250, 97)),
    "24 images": (images(24, 1, "4 taken for\n9 at 99.9%"), (500, 272)),
    "100 images in colour": (images(100, 3, "a"), (500, 967)),
    "images with long names": (images(8, 3, f"{LONG[0]} taken for\n{LONG[2]}"), (416, 355)),
    "photographs": (images(24, 3, "a", 224, 224), (448, 757)),  # 4 x 6 of 2.24 inches
    "saliency": (saliency(12, 1, 28), (500, 272)),  # 4 x 3 of 2.5 x 1.65 inches
    "saliency of photographs": (saliency(3, 3, 300), (450, 290)),  # 2 x 2 of 4.5 x 2.65 inches
    "saliency of no images": (saliency(0, 3, 8), (250, 87)),
    "no images": (images(0, 1, ""), (250, 87)),
    "balance of 2 classes": (balance(["a", "b"], ""), (500, 125)),
    "balance of 100 classes": (balance(MANY, ""), (518, 1315)),
    "balance with a leak": (balance(LONG, "1 of 2 leaks"), (567, 140)),
    "samples of 2 classes": (classes(["a", "b"], 1, 12), (500, 134)),
    "samples of 10 classes in colour": (classes(MANY[:10], 3, 8), (500, 243)),
    "samples of 100 classes": (classes(MANY, 3, 5), (500, 960)),
    "samples of long names": (classes(LONG, 1, 3), (500, 238)),
    # A cell is 30 pixels wide; of 3 x 2 weights and an edge around them, it is 24 high.
    "first layer": (first_layer(120, 1, 1.0), (600, 169)),
    "first layer of zeros": (first_layer(3, 1, 0.0), (250, 49)),
    "first layer of colours": (first_layer(21, 3, 1e-8), (600, 73)),
    "first layer of many units": (first_layer(65536, 3, 1.0), (600, 601)),
    "curves of one epoch": (curves(1), (1000, 400)),
    "curves of 1000 epochs": (curves(1000), (1000, 400)),
    "curves of 3 seeds": (curves(30, 1, 0.5, 0.2), (1000, 400)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_plot(name: str, tmp_path: Path) -> None:
    draw, size = CASES[name]
    draw(tmp_path / "first.png")
    if " 100 " not in f" {name}":  # these take seconds, and fewer classes run the same code
        mpl.rcParams.update({"font.size": 30, "lines.linewidth": 10, "axes.facecolor": "red"})
        draw(tmp_path / "second.png")
        assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()
    with Image.open(tmp_path / "first.png") as picture:
        picture.load()
        assert picture.format == "PNG"
        assert picture.size == size
        assert set(picture.info) == {"dpi"}  # no software, no date
        grey = np.asarray(picture.convert("L"))
    assert grey.min() < 100  # something is drawn
    assert grey.max() == 255


def test_long_names_are_shortened_and_stay_distinct() -> None:
    names = [f"{LONG[0]} {end}" for end in "ab"] + ["short", "cost $5", "\u0e01"]
    short = short_names(names)
    assert short == ["the Pembroke Welsh… (0)", "the Pembroke Welsh… (1)", *names[2:4], "[0E01]"]
    assert all(len(name) <= MAX_LABEL_LENGTH + 4 for name in short)
    assert class_labels(names)[3] == r"cost \$5"


def test_chinese_japanese_and_korean_names_are_drawn(tmp_path: Path) -> None:
    names = ["猫和狗", "ネコといぬ", "고양이", "Кот", "Ünï"]
    assert short_names(names) == class_labels(names) == names
    assert label_inches(names[:1]) == label_inches(["abcdef"]) > label_inches(["abc"]) == 0
    drawn = set()
    for name in ["", *names]:
        f1([name], [0.5])(tmp_path / "p.png")
        drawn.add((tmp_path / "p.png").read_bytes())
    assert len(drawn) == len(names) + 1


def test_fonts_are_the_installed_packages_own() -> None:
    for name in fonts():
        assert Path(sys.prefix) in Path(findfont(name, fallback_to_default=False)).parents


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Return the pixels that are shown."""
    found: list[np.ndarray] = []
    monkeypatch.setattr(Axes, "imshow", lambda _, pixels, **__: found.append(pixels))
    return found


@pytest.mark.parametrize("count", [1, 20, 21, MAX_UNITS, MAX_UNITS + 1])
def test_every_unit_of_the_first_layer_is_drawn(
    count: int, shown: list[np.ndarray], tmp_path: Path
) -> None:
    weights = np.arange(count * 12, dtype=np.float32).reshape(count, 2, 2, 3)
    draw_first_layer(tmp_path / "p.png", weights, DPI)
    (mosaic,) = shown
    for number, unit in enumerate(weights[:MAX_UNITS].mean(axis=1)):
        top, left = number // 20 * 4 + 1, number % 20 * 5 + 1
        assert np.array_equal(mosaic[top : top + 2, left : left + 3], unit)
    assert np.isfinite(mosaic).sum() == 6 * min(count, MAX_UNITS)


def test_filters_of_images_in_colour_are_in_colour(shown: list[np.ndarray], tmp_path: Path) -> None:
    """Each is scaled to its own largest weight; 0 is grey, and the gaps are white."""
    weights = np.zeros((3, 3, 1, 2), np.float32)
    weights[0, :, 0, 0] = 0.2, 0.1, -0.2
    weights[1, 2, 0, 1] = 7
    draw_first_layer(tmp_path / "p.png", weights, DPI)
    (mosaic,) = shown
    assert mosaic.shape == (3, 12, 3)
    assert mosaic[1, 1] == pytest.approx([1, 0.75, 0])
    assert mosaic[1, [2, 5, 9, 10]] == pytest.approx(0.5)
    assert mosaic[1, 6] == pytest.approx([0.5, 0.5, 1])
    assert (mosaic[[0, 2]] == 1).all()
    assert (mosaic[:, ::4] == mosaic[:, 3::4]).all()


def test_a_saliency_map_is_red_over_grey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[np.ndarray] = []
    draws = "image_pipeline.plotting.images.draw_images"
    monkeypatch.setattr(draws, lambda _, pixels, *__: drawn.append(pixels))
    maps = np.array([[[0, 1]]], np.float32)
    colours = np.array([[10, 10], [20, 20], [60, 60]], np.uint8)[None, :, None]
    for pixels in (colours, np.full((1, 1, 1, 2), 225, np.uint8)):  # single channels are inverted
        draw_saliency(tmp_path / "p.png", pixels, maps, ["a"], "A title", DPI)
        image, gap, cold, hot = drawn.pop()[0, :, 0].T[[0, 2, 3, 4]]
        assert image.tolist() == ([10, 20, 60] if pixels is colours else [30, 30, 30])
        assert gap.tolist() == [255, 255, 255]
        assert cold.tolist() == [30, 30, 30]
        assert hot == pytest.approx([0.3 * 30 + 0.7 * 255, 9, 9])


def test_fewer_images_of_a_class_where_they_are_large() -> None:
    assert [class_grid(4, side) for side in (28, 125, 150, 224, 500)] == [
        *((1, 12), (1, 12), (1, 10), (1, 6), (1, 6))
    ]
    assert [class_grid(count, 224) for count in (30, 100)] == [(2, 4), (4, 2)]


def test_first_layer_is_red_above_zero_and_blue_below(tmp_path: Path) -> None:
    draw_first_layer(tmp_path / "p.png", np.array([[[[1.0, -1.0]]]]), 100)
    with Image.open(tmp_path / "p.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20) or []}
        assert picture.width == 500  # with 50 dots per inch, 250
    assert colours >= {(103, 0, 31), (5, 48, 97)}  # the ends of the map RdBu


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the figures that are drawn, which are not written."""
    figures: list[Any] = []
    for module in ("classification", "balance", "curves"):
        saves = f"image_pipeline.plotting.{module}.save_figure"
        monkeypatch.setattr(saves, lambda _, figure, __: figures.append(figure))
    return figures


def test_curves_of_several_seeds_are_a_mean_and_a_band(drawn: list[Any]) -> None:
    curves(2, 1, 0.5, 0.3)(Path("c.png"))
    loss, _ = drawn[0].axes
    lines = [line.get_ydata().tolist() for line in loss.lines]
    assert lines == [pytest.approx([0.6, 0.3]), pytest.approx([1.2, 0.6])]
    bands = [band.get_paths()[0].get_extents() for band in loss.collections]
    assert [(band.ymin, band.ymax) for band in bands] == [(0.15, 1), (0.3, 2)]


def named(count: int) -> list[str]:
    return [f"n{number}" for number in range(count)]


def labels_of(axes: Any) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def test_of_very_many_classes_the_worst_and_the_best_scores_are_drawn(drawn: list[Any]) -> None:
    scores = [((7 * number) % 1000) / 1000 for number in range(1000)]
    f1(named(1000), scores)(Path("f1.png"))
    axes = drawn[0].axes[0]
    worst_first = sorted(range(1000), key=scores.__getitem__)
    assert labels_of(axes) == [f"n{number}" for number in worst_first[:30] + worst_first[-30:]]
    points = axes.lines[0]
    assert points.get_xdata().tolist() == [n / 1000 for n in [*range(30), *range(970, 1000)]]
    assert points.get_ydata().tolist() == [*range(30), *range(31, 61)]
    # Of all classes.
    assert axes.get_title() == "F1 score by class, test split (dashed: their mean, 49.95%)"
    texts = [text.get_text() for text in axes.texts]
    assert "940 of 1000 classes, in between, are left out" in texts


def test_a_hundred_classes_are_all_drawn_in_their_order(drawn: list[Any]) -> None:
    f1(named(100), list(np.linspace(1, 0, 100)))(Path("f1.png"))
    balance(named(100), "")(Path("b.png"))
    confusion(named(100), 5)(Path("c.png"))
    for figure in drawn:
        assert labels_of(figure.axes[0]) == named(100)
        assert not [text for text in figure.axes[0].texts if "left out" in text.get_text()]


def test_of_very_many_classes_the_smallest_and_the_largest_are_drawn(drawn: list[Any]) -> None:
    balance(named(101)[::-1], "")(Path("b.png"))
    train, validation, _ = drawn[0].axes
    shown = [*range(30), *range(71, 101)]  # `balance` gives a class as many as its number
    assert labels_of(train) == [f"n{100 - number}" for number in shown]
    assert [bar.get_width() for bar in validation.patches] == shown
    assert train.get_title() == "train: 45450 images"  # of all classes
    assert train.texts[-1].get_text() == "41 of 101 classes, in between, are left out"


def test_of_very_many_classes_the_most_confused_are_drawn(drawn: list[Any]) -> None:
    names = named(500)
    actual = [*range(500), *[450] * 3, *range(2, 80, 2)]
    predicted = [*range(500), *[7] * 3, *range(3, 81, 2)]
    table = pd.DataFrame({"actual": actual, "predicted": predicted}).map(lambda n: f"n{n}")
    draw_confusion_matrix(Path("c.png"), table, names, DPI)
    axes = drawn[0].axes[0]
    assert labels_of(axes) == [f"n{number}" for number in (*range(2, 41), 450)]
    assert axes.get_title() == (
        "Confusion matrix: 42 errors in 542 test images\nThe 40 classes of the most frequent "
        "confusions; 460 of 500 classes are left out"
    )
    counts = axes.images[0].get_array()
    assert counts[-1].tolist() == [None] * 5 + [3] + [None] * 33 + [1]
