"""dvc.lock, metrics/ and plots/ in Git are what the code in Git makes of MNIST, to the byte."""

import csv
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
from PIL import Image

from image_pipeline.tensors.tensor_files import read_sample
from project import ROOT, SHARED_MNIST, Project, require


def test_the_committed_run_is_what_the_code_makes(tmp_path: Path) -> None:
    require(SHARED_MNIST.is_dir(), "a copy of MNIST in ../shared")
    clone = Clone(tmp_path / "clone")
    # With what is committed in place, DVC would see nothing to do in the last two stages.
    for folder in ("metrics", "plots"):
        shutil.rmtree(clone.root / folder)
    mirror = {"DATASET_MIRROR": str(SHARED_MNIST)}
    first = clone.run("dvc", "repro", env=mirror, timeout=900)
    for stage in ("download", "tensorize", "train", "evaluate", "plot", "export"):
        assert f"Running stage '{stage}'" in first.stdout
    assert "WARNING" not in first.stderr
    assert clone.git_status() == ""

    check_predictions(clone)
    second = clone.run("dvc", "repro", env=mirror)
    assert "Running stage" not in second.stdout
    assert "Data and pipelines are up to date." in second.stdout


def check_predictions(project: Project) -> None:
    """Hold what `predict` says of the test images, as 10,000 files, against what `evaluate` did."""
    folder = project.root / "images"
    images = read_sample(project.root / "data/tensors/test.safetensors", range(10_000)).images
    for number, image in enumerate(images[:, 0]):
        Image.fromarray(image).save(folder / f"{number:05}.png")
    done = project.run("python", "-m", "image_pipeline", "predict", "images", "--csv")
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


class Clone(Project):
    """What is committed, as somebody else gets it: no data, no model, an empty cache."""

    def __init__(self, root: Path) -> None:
        self.root = root
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(root)], check=True)
        assert not (root / "data").exists()
        assert not (root / ".dvc" / "cache").exists()
