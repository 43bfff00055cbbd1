"""Other sizes and other classes than MNIST's go through all stages, and so does what is wrong."""

import bz2
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from project import SMALL, Project
from published import idx


def write_usps(raw: Path) -> None:
    """Write USPS's two files: ten images of each digit for training, four for the test."""
    for name, images in (("usps.bz2", 100), ("usps.t.bz2", 40)):
        values = np.random.default_rng(images).uniform(-1, 1, (images, 256))
        lines = (
            " ".join([str(number % 10 + 1), *(f"{i + 1}:{v:.3g}" for i, v in enumerate(row))])
            for number, row in enumerate(values)
        )
        (raw / name).write_bytes(bz2.compress("\n".join(lines).encode() + b"\n"))


def write_letters(raw: Path) -> None:
    """Write EMNIST's zip file with the letters: six of each for training, two for the test."""
    with zipfile.ZipFile(raw / "gzip.zip", "w") as archive:
        for part, count in (("train", 156), ("test", 52)):
            images = np.random.default_rng(count).integers(0, 256, (count, 28, 28), np.uint8)
            name = f"gzip/emnist-letters-{part}"
            archive.writestr(f"{name}-images-idx3-ubyte.gz", idx(images))
            labels = (np.arange(count) % 26 + 1).astype(np.uint8)
            archive.writestr(f"{name}-labels-idx1-ubyte.gz", idx(labels))


CASES = {
    "usps": ({"download.dataset": "usps"}, write_usps, "usps.bz2", 10, [1, 16, 16]),
    "letters": (
        {"download.dataset": "emnist", "tensorize.emnist_split": "letters"},
        write_letters,
        "gzip.zip",
        26,
        [1, 28, 28],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_from_its_files_to_the_pictures(name: str, make_project: Callable[..., Project]) -> None:
    params, write, file, classes, shape = CASES[name]
    project = make_project(params={**SMALL, **params, "train.epochs": 1})
    raw = project.root / "data" / "raw"
    raw.mkdir(parents=True)
    write(raw)
    for stage in ("tensorize", "train", "evaluate", "plot", "export"):
        project.stage(stage)
    with safe_open(project.root / "models" / "model.safetensors", "np") as model:
        card = json.loads(model.metadata()["image_pipeline"])
    assert card["input_shape"] == shape
    assert len(card["data"]["class_names"]) == classes
    metrics = json.loads((project.root / "metrics" / "test.json").read_text())
    assert metrics["images"] == {"usps": 40, "letters": 52}[name]
    assert len((project.root / "plots" / "classes.csv").read_text().splitlines()) == classes + 1

    before = project.hashes()
    (raw / file).write_bytes((raw / file).read_bytes()[:-100])
    before[f"data/raw/{file}"] = project.hashes()[f"data/raw/{file}"]
    done = project.stage("tensorize", check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"tensorize: error: data/raw/{file}: not a whole ")
    assert last.endswith("; delete it and run `dvc repro --force download`")
    assert "Traceback" not in done.stderr
    assert project.hashes() == before
