"""The model card: valid for huggingface_hub, and every number in it one of the run."""

import json
import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import EvalResult, ModelCard
from PIL import Image

from image_pipeline.common import paths
from image_pipeline.exporting.page import render
from image_pipeline.exporting.provenance import PROVENANCE, get_provenance
from image_pipeline.exporting.run_metrics import read_run_metrics
from image_pipeline.modeling import model_card
from image_pipeline.reading.pixels import PixelSettings, decode
from image_pipeline.tensors.tensor_files import DatasetInfo
from project import ROOT
from refusals import refusal

NAMES = ("cat", "a|b *c* <i>", "\N{HIRAGANA LETTER A}")
DATASETS = ROOT / "src" / "image_pipeline" / "datasets"
AUGMENTATION = {"rotation": 8.0, "shear": 0.0, "images_per_draw": 64, "custom": "none"}
DATA = {
    "classes_with_few_images": ["cat"],
    "images_skipped": 3,
    "leaked_test_images": 2,
    "pixels": {"mean": [0.25], "standard_deviation": [0.5]},
}
TRAIN = {
    "epochs": 7,
    "portable": True,
    "portable_to_arm": False,
    "train": {"accuracy": 0.91, "loss": 0.31},
    "validation": {"accuracy": 0.87, "loss": 0.42},
}
TEST = {
    "accuracy": 0.8125,
    "accuracy_interval_95": [0.7123, 0.8901],
    "errors": 1500,
    "expected_calibration_error": 0.012345,
    "images": 8000,
    "loss": 0.456789,
    "macro_f1": 0.801234,
}
TABLES = {
    paths.DATA_TABLE: "split,images,duplicates,leaked\ntrain,900,5,0\nvalidation,100,0,1\n"
    "test,8000,0,2\n",
    paths.CLASSES: "class,images,precision,recall,f1\ncat,2000,0.5,0.6,0.7\n"
    "a|b *c* <i>,3000,0.9,0.8,0.85\n\N{HIRAGANA LETTER A},3000,0.1,0.2,0.15\n",
    paths.RELIABILITY: "confidence,accuracy,perfect,images\n0.4,0.3,0.4,10\n0.9,0.8,0.9,7990\n",
}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a directory with a run's files."""
    monkeypatch.chdir(tmp_path)
    paths.PLOTS.mkdir()
    paths.TEST_METRICS.parent.mkdir()
    for path, values in (
        (paths.DATA_METRICS, DATA),
        (paths.TRAIN_METRICS, TRAIN),
        (paths.TEST_METRICS, TEST),
    ):
        path.write_text(json.dumps(values))
    for path, text in TABLES.items():
        path.write_text(text, encoding="utf-8")


def page(
    dataset: str = "mnist", license_: str = "cc-by-sa-3.0", onnx: bool = True, **changes: Any
) -> str:
    card = model_card.ModelCard(
        network="mlp",
        source="0" * 64,
        input_shape=(1, 28, 28),
        data=changes.pop("data", DatasetInfo(dataset, NAMES, (0.25,), (0.5,))),
        augmentation=AUGMENTATION,
        options={"hidden_sizes": [12, 8]},
        **changes,
    )
    metrics = read_run_metrics(NAMES)
    return render(card, get_provenance(dataset), metrics, license_, 1234, "ab" * 32, onnx=onnx)


def tables(text: str) -> list[list[list[str]]]:
    """Return the cells of each table of a page, without the header row."""
    found = re.findall(r"^(?:\|.*\n)+", text, re.MULTILINE)
    return [
        [re.split(r" (?<!\\)\| ", line[2:-2]) for line in table.splitlines()[2:]] for table in found
    ]


def test_the_hub_can_read_the_metadata() -> None:
    text = page()
    card: Any = ModelCard(text)  # raises an error for invalid metadata
    assert str(card) == text
    assert card.data.license == "cc-by-sa-3.0"
    assert card.data.datasets == ["ylecun/mnist"]
    assert card.data.pipeline_tag == "image-classification"
    results: list[EvalResult] = card.data.eval_results
    assert {result.metric_type: result.metric_value for result in results} == {
        "accuracy": TEST["accuracy"],
        "f1": TEST["macro_f1"],
        "loss": TEST["loss"],
        "expected_calibration_error": TEST["expected_calibration_error"],
    }
    assert {(each.dataset_name, each.dataset_split) for each in results} == {("MNIST", "test")}


def test_every_number_in_the_text_is_one_of_the_run() -> None:
    text = page()
    files, splits, training, test, classes, reliability = tables(text)
    assert [row[0] for row in files] == ["`model.onnx`", "`model.safetensors`"]
    assert splits == [row.split(",") for row in TABLES[paths.DATA_TABLE].splitlines()[1:]]
    assert training == [["accuracy", "0.91", "0.87"], ["loss", "0.31", "0.42"]]
    assert test == [
        ["images", "8000"],
        ["errors", "1500"],
        ["accuracy", "0.8125"],
        ["its 95% interval (Wilson)", "0.7123 to 0.8901"],
        ["macro F1", "0.801234"],
        ["cross-entropy", "0.456789"],
        ["expected calibration error", "0.012345"],
    ]
    assert [row[1:] for row in classes] == [
        row.split(",")[1:] for row in TABLES[paths.CLASSES].splitlines()[1:]
    ]
    assert classes[1][0] == r"a\|b \*c\* \<i\>"  # shown unchanged, in one cell
    assert reliability == [["0.4", "0.3", "10"], ["0.9", "0.8", "7990"]]
    head = " ".join(text.split("| file |")[0].split())
    assert "1,234 parameters and 3 classes" in head
    assert "**81.25%** on 8,000 images (1,500 errors; 95% interval 71.23% to 89.01%)" in head
    assert "worst class is \N{HIRAGANA LETTER A} (0.15)" in text
    assert "- 2 of the test images also occur among the training" in text
    assert "fewer than 10 images" in text
    assert "3 files could not be read" in text
    assert "`hidden_sizes` [12, 8]" in text
    assert "Augmentation: `rotation` 8.0.\n" in text
    assert "ab" * 32 in text
    assert "{" not in text.split("```")[-1]  # no template syntax is left


def test_a_metric_that_was_added_is_on_the_page() -> None:
    before = page()
    more = {"accuracy_top5": 0.991, "by_writer": {"a": 1}, "list": [1]}
    paths.TEST_METRICS.write_text(json.dumps(TEST | more))
    row = "| expected calibration error | 0.012345 |\n"
    assert page() == before.replace(row, f"{row}| accuracy top5 | 0.991 |\n")


def test_optional_sentences_are_left_out() -> None:
    clean = {**DATA, "classes_with_few_images": [], "images_skipped": 0, "leaked_test_images": 0}
    paths.DATA_METRICS.write_text(json.dumps(clean))
    paths.TRAIN_METRICS.write_text(json.dumps({**TRAIN, "portable": False}))
    text = page(onnx=False)
    for words in ("also occur", "fewer than 10", "could not be read", "to the bit", "onnx", "ONNX"):
        assert words not in text
    assert "specific to the machine" in text
    assert "With PyTorch" in text


def test_custom_images_have_no_licence_until_one_is_set() -> None:
    text = page("folder", get_provenance("folder").license)
    data: Any = ModelCard(text).data
    assert data.license == "other"
    assert data.datasets is None
    assert "no licence is stated" in text
    data = ModelCard(page("folder", "cc-by-4.0")).data
    assert data.license == "cc-by-4.0"


def test_every_data_set_has_a_provenance() -> None:
    assert set(PROVENANCE) == {path.stem for path in DATASETS.glob("[a-z]*.py")} - {"folder"}


@pytest.mark.parametrize(
    ("path", "content", "stage"),
    [
        (paths.TEST_METRICS, b'{"accuracy": 0.5}', "evaluate"),
        (paths.TEST_METRICS, b"\xff", "evaluate"),
        (paths.DATA_METRICS, b"[]", "tensorize"),
        (paths.TRAIN_METRICS, b"{", "train"),
        (paths.CLASSES, b"class,images\ncat,1\n", "evaluate"),
        (paths.CLASSES, TABLES[paths.CLASSES].replace("cat", "dog").encode(), "evaluate"),
        (paths.DATA_TABLE, b"split,images,duplicates,leaked\ntrain,,0,0\n", "tensorize"),
        (paths.RELIABILITY, b"", "evaluate"),
    ],
)
def test_an_invalid_file_is_named(path: Path, content: bytes, stage: str) -> None:
    path.write_bytes(content)
    assert f"run `dvc repro --force {stage}`" in refusal(path, lambda _: page())


def test_the_weights_that_training_started_from_are_named() -> None:
    weights = model_card.WeightsProvenance("A_network", "https://a.org/b", "mit", "cd" * 32)
    text = " ".join(page("folder", "other", weights=weights).split())
    assert (
        "Training started from A\\_network (<https://a.org/b>), a file with the SHA-256 "
        f"`{'cd' * 32}`. Images are normalised as for these weights: with the mean 0.25 and the "
        "standard deviation 0.5."
    ) in text
    assert "no licence is stated. Weights that training started from: `mit`." in text
    own = model_card.WeightsProvenance("mine.pth", "", "other", "cd" * 32)
    text = " ".join(page(weights=own).split())
    assert "Training started from mine.pth, a file with" in text
    assert text.count("Weights that training started from: `other`.") == 1
    assert "started from" not in page()


def test_the_page_crops_as_the_training_images_were_cropped(tmp_path: Path) -> None:
    """Its code gives the pixels that `decode` gives, but for the rounding of the resampling."""
    data = DatasetInfo("folder", NAMES, (0.25,), (0.5,), "crop", crop_fraction=0.875)
    text = page("folder", "other", data=data)
    assert "the middle of each photograph: a square of\n87.5% of the shorter side" in text
    code = text.split("```python\n")[1].split("```")[0]
    ramp = np.add.outer(np.arange(90), np.arange(64)).astype(np.uint8)
    Image.fromarray(ramp).save(tmp_path / "image.png")
    (tmp_path / "example.py").write_text(code)
    found = runpy.run_path(str(tmp_path / "example.py"))
    content = (tmp_path / "image.png").read_bytes()
    pixels, _ = decode(content, PixelSettings(1, 28, "crop", crop_fraction=0.875))
    expected = np.frombuffer(pixels, np.uint8).reshape(1, 1, 28, 28)
    assert np.abs(found["images"].astype(int) - expected).max() <= 1
