"""Prediction of image files, in order and on any number of processes; and the command `predict`."""

import csv
import io
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from image_pipeline.app.model import AppModel
from image_pipeline.modeling.model_card import OodThresholds
from image_pipeline.modeling.model_file import read_model, write_model
from image_pipeline.modeling.ood import TrainingStatistics
from image_pipeline.prediction.inputs import ImageInput
from image_pipeline.prediction.predictor import Predictor
from image_pipeline.prediction.preprocessing import Preprocessor
from image_pipeline.prediction.streaming import Prediction, predict_files
from prediction.prediction_files import (
    digit_files,
    image_file,
    make_card,
    make_model,
    png_of_size,
)
from project import ROOT

COUNT = 2300  # more than two batches
DIGIT = np.zeros((28, 28), np.uint8)
DIGIT[4:24, 12:16] = 250


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """Return a folder of image files, and their pixels, uint8 `[COUNT, 28, 28]`."""
    folder = tmp_path_factory.mktemp("digits")
    return folder, digit_files(folder, COUNT)


@pytest.mark.parametrize("processes", [1, 3])
def test_files_get_the_predictions_of_their_pixels_in_order(
    processes: int, model: Path, digits: tuple[Path, np.ndarray]
) -> None:
    folder, images = digits
    inputs = [ImageInput(str(path)) for path in sorted(folder.iterdir())]
    inputs.insert(1000, ImageInput("gone.png"))
    preprocessor = Preprocessor.for_model(make_card(), "as-trained")
    found = list(predict_files(inputs, model, preprocessor, processes))
    gone = found.pop(1000)
    assert not isinstance(gone, Prediction)
    assert (gone.input.name, gone.error) == ("gone.png", "No such file or directory")

    expected = Predictor(model).predict(images[:, np.newaxis]).probabilities
    # Two classes may differ by rounding only, which depends on the processor here (no `pin`).
    best = np.sort(expected, axis=1)[:, :-3:-1]
    for row, one in enumerate(found):
        assert isinstance(one, Prediction)
        assert one.image.input.name == f"{folder}/{row:05}.png"
        assert one.class_name != one.runner_up
        for name, probability, wanted in (
            (one.class_name, one.probability, best[row, 0]),
            (one.runner_up, one.runner_up_probability, best[row, 1]),
        ):
            assert probability == pytest.approx(wanted, abs=1e-6)
            assert expected[row, int(name)] == pytest.approx(wanted, abs=1e-6)
    assert len(found) == len(expected)


def test_memory_does_not_grow_with_the_number_of_files(model: Path) -> None:
    """Only as many inputs are read ahead as the processes work on."""
    begun = 0

    def inputs() -> Iterator[ImageInput]:
        nonlocal begun
        content = image_file(DIGIT)
        while True:
            begun += 1
            yield ImageInput(str(begun), content)

    for done, _ in enumerate(islice(predict_files(inputs(), model, processes=2), 20_000)):
        assert begun - done < 10_000


def test_images_beyond_the_ood_thresholds_are_doubtful(tmp_path: Path) -> None:
    images = np.zeros((3, 1, 28, 28), np.uint8)
    images[1] = 255
    path = tmp_path / "model.safetensors"
    assert not Predictor(make_model(path)).predict(images).doubtful.any()
    for thresholds, expected in (
        (OodThresholds(logit=-1e9, distance=100.0), [False, True, False]),
        (OodThresholds(logit=1e9, distance=1e9), [True, True, True]),
    ):
        predictor = Predictor(make_model(path, make_card(ood=thresholds)))
        assert predictor.predict(images).doubtful.tolist() == expected


def as_sure_as(probability: float, path: Path) -> Path:
    """Write a model that gives class 3 this probability, whatever the image."""
    network, card = read_model(make_model(path))
    *_, bias = network.parameters()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        bias[3] = np.log(9 * probability / (1 - probability))
    write_model(
        path, network, card, TrainingStatistics(*np.zeros((2, *card.input_shape), np.uint8))
    )
    return path


@pytest.mark.parametrize(
    ("probability", "whole", "apart"),
    [(0.89, True, True), (0.96, False, True), (0.98, False, False)],
)
def test_a_digit_whose_strokes_were_joined_must_be_surer(
    probability: float, whole: bool, apart: bool, tmp_path: Path
) -> None:
    model = as_sure_as(probability, tmp_path / "model.safetensors")
    broken = DIGIT.copy()
    broken[17:19] = 0
    inputs = [
        ImageInput(
            "", image_file(np.pad(255 - np.kron(each, np.ones((5, 5), np.uint8)), 40, "edge"))
        )
        for each in (DIGIT, broken)
    ]
    expected = [("no class is sure",) if doubtful else () for doubtful in (whole, apart)]
    found = [each for each in predict_files(inputs, model) if isinstance(each, Prediction)]
    assert [each.probability for each in found] == pytest.approx([probability] * 2)
    assert [each.doubts for each in found] == expected
    app = AppModel(model)
    assert [app.predict_image_file(each.read()).doubts for each in inputs] == expected


def predict(
    *arguments: str | Path, stdin: bytes = b"", folder: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "image_pipeline", "predict", *map(str, arguments)]
    done = subprocess.run(
        command, input=stdin, cwd=folder, capture_output=True, check=False, timeout=120
    )
    return subprocess.CompletedProcess(
        command, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def bad_files(folder: Path) -> list[str]:
    """Write valid, broken and missing files; return their names."""
    rng = np.random.default_rng(0)
    photograph = rng.integers(0, 256, (300, 200, 3), np.uint8)
    whole = image_file(photograph, "JPEG")
    frames = [Image.fromarray(frame) for frame in (DIGIT, 255 - DIGIT)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    turned = Image.Exif()
    turned[0x0112] = 6
    for name, content in {
        "good.png": image_file(DIGIT),
        "huge.png": png_of_size(50_000, 50_000),
        "short.jpg": whole[: len(whole) // 2],
        "text.png": b"This is not an image.\n",
        "empty.png": b"",
        "turned.jpg": image_file(np.rot90(DIGIT), "JPEG", exif=turned.tobytes()),
    }.items():
        (folder / name).write_bytes(content)
    (folder / "nothing").mkdir()
    return [
        *("good.png", "huge.png", "short.jpg", "text.png", "moving.gif", "empty.png"),
        *("turned.jpg", "nothing", "*.bmp", "gone.png"),
    ]


def test_bad_files_get_an_error_line_each_and_the_others_are_predicted(
    model: Path, tmp_path: Path
) -> None:
    names = bad_files(tmp_path)
    done = predict("--model", model, "--json", "--prepare", "as-trained", *names, folder=tmp_path)
    assert done.returncode == 1
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["image"] for row in rows] == ["good.png", "moving.gif", "turned.jpg"]
    assert rows[0] == rows[1] | {"image": "good.png"}  # its first frame
    assert rows[0]["class"] == rows[2]["class"]  # upright
    assert rows[0]["probability"] == pytest.approx(rows[2]["probability"], abs=0.1)
    *errors, last = done.stderr.splitlines()
    for line, (name, why) in zip(
        errors,
        {
            "huge.png": "Image size (2500000000 pixels) exceeds limit",
            "short.jpg": "image file is truncated",
            "text.png": "not an image in one of the formats PNG, JPEG",
            "moving.gif": "has several frames; the first one is used",
            "empty.png": "not an image in one of the formats PNG, JPEG",
            "nothing": "no images in this folder",
            "*.bmp": "no file matches this pattern",
            "gone.png": "no such file or folder",
        }.items(),
        strict=True,
    ):
        kind = "note" if name == "moving.gif" else "error"
        assert line.startswith(f"predict: {kind}: {name}: {why}")
    assert last == f"predict: 3 images by {model} (mlp, digits); 7 could not be predicted"


def test_table_csv_and_figure(model: Path, tmp_path: Path) -> None:
    images = digit_files(tmp_path / "in", 12)
    figure = tmp_path / "seen.png"
    table = predict("--model", model, tmp_path / "in", "--show", figure)
    assert (table.returncode, table.stderr) == (
        0,
        f"predict: 12 images by {model} (mlp, digits); {figure} shows them\n",
    )
    with Image.open(figure) as drawn:
        assert drawn.width > drawn.height > 300
    listed = "\n".join(f"{tmp_path}/in/{number:05}.png" for number in range(12))
    done = predict("--model", model, "--csv", "--files-from", "-", stdin=listed.encode())
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert len(rows) == len(images)
    header, *lines = table.stdout.splitlines()
    assert header.split() == ["class", "probability", "runner-up", "probability", "image"]
    for line, row in zip(lines, rows, strict=True):
        name, first, p1, second, p2, *others = row.values()
        assert line.split() == [first, f"{float(p1):.2%}", second, f"{float(p2):.2%}", name]
        assert others == ["false", "as-trained", "", ""]


def test_what_was_doubted_and_left_out_is_said(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    two = np.pad(255 - np.kron(np.hstack([DIGIT, DIGIT]), np.ones((5, 5), np.uint8)), 40, "edge")
    (folder / "two.png").write_bytes(image_file(two))
    for name in ("scan.pdf", "a.TXT", "b.txt", "IMG0001"):
        (folder / name).write_bytes(b"")
    done = predict("--model", model, "--json", folder)
    row = json.loads(done.stdout)
    doubts = "several marks of like size, no class is sure"  # its weights are random
    assert (row["doubtful"], row["doubts"]) == (True, doubts)
    assert row["left_out"] == "1 mark"
    assert done.stderr == (
        "predict: note: 4 files left out, whose names are not those of images: .txt (2), "
        "no suffix (1), .pdf (1); a file that you name is read whatever its suffix\n"
        f"predict: 1 images by {model} (mlp, digits), 1 doubtful\n"
    )
    table = predict("--model", model, folder / "two.png").stdout
    assert table.endswith(f"two.png  ({doubts}; left out: 1 mark)\n")


def test_one_image_on_standard_input(model: Path) -> None:
    done = predict("--model", model, "--json", "-", stdin=image_file(DIGIT))
    assert json.loads(done.stdout)["image"] == "-"
    assert done.returncode == 0
    done = predict("--model", model, "-", stdin=b"a.png\nb.png\n")
    assert "predict: error: -: not an image in one of the formats" in done.stderr
    assert "to give a list of file names, use --files-from -" in done.stderr


def test_a_closed_output_pipe_is_not_an_error(model: Path, digits: tuple[Path, np.ndarray]) -> None:
    arguments = (sys.executable, "-m", "image_pipeline", "predict", "--model", model, "--csv")
    command = shlex.join(map(str, (*arguments, digits[0])))
    done = subprocess.run(
        ["sh", "-c", f"{command} | head -1"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.startswith(b"image,class,")
    assert b"Traceback" not in done.stderr
    assert b"BrokenPipe" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [
        ([], 2, "no IMAGE; name files, folders or patterns, or - for standard input"),
        (["x.png"], 1, "models/model.safetensors: not found; run `dvc pull` or `dvc repro` in "),
        (["x.png", "--model", "other"], 1, "other: not found; name a model file that `train` wr"),
        (["x.png", "--model", "text"], 1, "text: not a valid safetensors file ("),
        (["x.png", "--show", "x.jpg"], 2, "x.jpg: not a .png file in an existing folder; choose "),
    ],
)
def test_arguments_that_are_refused(
    arguments: list[str], status: int, error: str, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("not a model")
    done = predict(*arguments, folder=tmp_path)
    assert done.returncode == status
    assert done.stderr.startswith(f"predict: error: {error}")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
