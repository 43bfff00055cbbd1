"""docs/using.md, as a reader would copy it, after a run: `predict` says what `evaluate` did."""

import csv
import json
import re
import sys

import numpy as np
import pytest
from PIL import Image

from image_pipeline.tensors.tensor_files import read_sample
from project import ROOT, Project, code_blocks

PAGE = (ROOT / "docs" / "using.md").read_text(encoding="utf-8")
[COMMANDS] = [block for block in code_blocks(PAGE) if "predict" in block]
[PYTHON] = [block for block in code_blocks(PAGE, "python") if "Predictor" in block]
COUNT = 360  # test images of the digits


@pytest.fixture(scope="module")
def project(finished: Project) -> Project:
    """Return a project after a run, with its test images as files in `scans`, and two beside."""
    project = finished
    images = read_sample(project.root / "data/tensors/test.safetensors", range(COUNT)).images[:, 0]
    np.save(project.root / "images.npy", images[:, np.newaxis])
    (project.root / "scans" / "test").mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(project.root / "scans" / "test" / f"{number:05}.png")
    large = Image.fromarray(255 - images[0]).resize((300, 300))
    for name in ("one.png", "two.jpg"):
        large.save(project.root / "scans" / name)
    return project


def predicted(project: Project) -> list[dict[str, str]]:
    with (project.root / "plots/predictions.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_pages_commands(project: Project) -> None:
    done = project.run("bash", "-c", f"set -eo pipefail\n{COMMANDS}")
    assert done.stdout.count("  image\n") == 4
    assert f"{COUNT + 2} images by models/model.safetensors (mlp, digits)" in done.stderr
    assert "; seen.png shows the first 24\n" in done.stderr
    with (project.root / "classes.csv").open() as file:
        one, *rows = csv.DictReader(file)
    assert one["image"] == "scans/one.png"
    found = [(row["class"], row["probability"], row["prepared"]) for row in rows]
    assert found == [
        (row["predicted"], row["confidence"], "as-trained") for row in predicted(project)
    ]
    assert len(found) == COUNT
    [line] = (project.root / "classes.jsonl").read_text().splitlines()
    assert json.loads(line)["image"] == "scans/two.jpg"
    columns = re.search(r"`--csv` and `--json` .*? print (.*?)\.\n", PAGE, re.DOTALL)
    assert columns
    assert re.findall(r"`(\w+)`", columns[1]) == list(json.loads(line))


def test_the_pages_python(project: Project) -> None:
    asked = PYTHON.replace("images = ...", "import numpy as np; images = np.load('images.npy')")
    script = f"{asked}\nprint(*(f'{{p:.6f}}' for p in predictions.probabilities.max(axis=1)))"
    done = project.run(sys.executable, "-c", script)
    assert done.stdout.split() == [row["confidence"] for row in predicted(project)]
    assert done.stderr == ""  # no warning: the bits are the same
