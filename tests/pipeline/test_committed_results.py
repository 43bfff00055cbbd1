"""dvc.lock, metrics/ and plots/ in Git are what the code in Git makes of MNIST, to the byte."""

import csv
import json
from pathlib import Path

import numpy as np
from kill_harness import STAGES
from PIL import Image

from image_pipeline.tensors.tensor_files import read_sample
from project import ROOT, Project


def test_the_committed_run_is_what_the_code_makes(mnist_run: tuple[Project, str, str]) -> None:
    clone, said, warned = mnist_run
    for stage in STAGES:
        assert f"Running stage '{stage}'" in said
    assert "WARNING" not in warned
    assert clone.git_status() == ""


def test_predict_says_of_the_test_images_what_evaluate_did(
    mnist_run: tuple[Project, str, str], tmp_path: Path
) -> None:
    """As 10,000 files."""
    project, *_ = mnist_run
    images = read_sample(project.root / "data/tensors/test.safetensors", range(10_000)).images
    for number, image in enumerate(images[:, 0]):
        Image.fromarray(image).save(tmp_path / f"{number:05}.png")
    done = project.run("python", "-m", "image_pipeline", "predict", str(tmp_path), "--csv")
    assert "WARNING" not in done.stderr
    rows = list(csv.DictReader(done.stdout.splitlines()))
    with (project.root / "plots/predictions.csv").open(encoding="utf-8") as file:
        expected = list(csv.DictReader(file))
    assert len(rows) == len(expected) == 10_000
    for row, other in zip(rows, expected, strict=True):
        assert (row["class"], row["probability"]) == (other["predicted"], other["confidence"])
        assert row["prepared"] == "as-trained"
    doubtful = np.mean([row["doubtful"] == "true" for row in rows])
    assert 0.005 < doubtful < 0.02  # as of the validation images, of which it is 0.01


def test_the_committed_model_is_good_enough() -> None:
    metrics = json.loads((ROOT / "metrics" / "test.json").read_text())
    assert metrics["images"] == 10_000
    assert metrics["accuracy"] >= 0.987
    assert metrics["errors"] == round((1 - metrics["accuracy"]) * 10_000)
