"""Two classes and a hundred, grey and colour, of other sizes, whatever the classes are called."""

import csv
import json
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from declared_plots import PICTURES
from image_pipeline.common import paths
from image_pipeline.downloading.dataset import RawDataset, RawSplit
from image_pipeline.tensorizing.tensorize import tensorize
from image_pipeline.tensors.tensor_files import read_sample
from project import Project

HUES = ((1, 0.2, 0.2), (0.2, 1, 0.2), (0.2, 0.2, 1), (1, 1, 0.2), (0.2, 1, 1))
ODD = (
    *("a, b", 'the "quoted"', "größer Übel", "$5 and $6", "犬と猫"),
    *("NA", "Россия", "x" * 60, "0", "''"),
)


def recolor(classes: int, channels: int, side: int) -> RawDataset:
    """Return scikit-learn's digits, in another colour and turn for every ten classes."""
    class_names = tuple(f"{name} {ten}" if ten else name for ten in range(10) for name in ODD)
    class_names = class_names[:classes]
    digits = load_digits()
    by_digit = [digits.images[digits.target == digit] for digit in range(10)]
    images, labels = [], []
    for label in range(classes):
        for image in by_digit[label % 10][: max(20, 200 // classes)]:
            small = Image.fromarray(np.rint(image * 255 / 16).astype(np.uint8))
            large = np.rot90(np.asarray(small.resize((side, side))), label // 50)
            hue = np.array(HUES[label // 10 % 5][:channels])
            images.append(np.rint(hue[:, None, None] * large).astype(np.uint8))
            labels.append(label)
    every, truth = np.stack(images), np.array(labels, np.uint8)

    def split(chosen: np.ndarray) -> RawSplit:
        part = every[chosen]
        return RawSplit((channels, side, side), truth[chosen], lambda: [part])

    test = np.arange(len(truth)) % 4 == 0
    return RawDataset(class_names, split(~test), split(test))


@pytest.mark.parametrize(
    ("classes", "channels", "side"), [(2, 1, 64), (100, 3, 16)], ids=["2-grey", "100-colour"]
)
def test_every_stage_works(
    make_project: Callable[..., Project],
    monkeypatch: pytest.MonkeyPatch,
    classes: int,
    channels: int,
    side: int,
) -> None:
    project = make_project(
        params={"train.epochs": 12, "train.batch_size": 32, "plot.dpi": 50, "plot.mistakes": 4}
    )
    for path in project.root.glob("plots/*"):
        path.unlink()
    monkeypatch.chdir(project.root)
    dataset = recolor(classes, channels, side)
    tensors = (paths.TRAIN_TENSORS, paths.VALIDATION_TENSORS, paths.TEST_TENSORS)
    reports = (paths.DATA_METRICS, paths.CLASS_BALANCE, paths.DATA_TABLE)
    tensorize(dataset, "recoloured", 0.1, 0, tensors, *reports)
    metrics = json.loads(paths.DATA_METRICS.read_text(encoding="utf-8"))
    assert metrics["number_of_classes"] == classes
    assert metrics["shape"] == [channels, side, side]
    for stage in ("weights", "train", "evaluate", "plot", "export"):
        assert "arning" not in project.stage(stage, env={"PYTHONWARNINGS": "error"}).stderr

    names = list(dataset.class_names)
    metrics = json.loads(paths.TEST_METRICS.read_text(encoding="utf-8"))
    assert metrics["accuracy"] > (0.9 if classes == 2 else 0.3)
    with paths.PREDICTIONS.open(encoding="utf-8", newline="") as file:
        predicted = list(csv.DictReader(file))
    sample = read_sample(paths.TEST_TENSORS, range(len(predicted)))
    assert [row["actual"] for row in predicted] == [names[label] for label in sample.labels]
    assert {row["predicted"] for row in predicted} <= set(names)
    with paths.CLASSES.open(encoding="utf-8", newline="") as file:
        assert [row["class"] for row in csv.DictReader(file)] == names
    assert {path.as_posix() for path in paths.PLOTS.glob("*.png")} == set(PICTURES)
