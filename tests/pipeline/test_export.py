"""Export on whole runs: MNIST's test images, the page, its manual, a network that ONNX cannot."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from custom_networks import HEAD, HYBRID, keep_few
from huggingface_hub import ModelCard
from PIL import Image

from image_pipeline.tensors.tensor_files import read_sample
from project import ROOT, SHARED_MNIST, Project, code_blocks, require

BLOCKS = code_blocks((ROOT / "docs/export.md").read_text())
# One epoch each, the residual network with few filters, for the time it takes.
NETWORKS: dict[str, dict[str, object]] = {
    "mlp": {},
    "cnn": {},
    "resnet": {"train.model.resnet": {"stem_filters": 8, "filters": [8, 16]}},
    "own": {},
}
# As the stage does it, but on all images of the test split.
COMPARE = """
from image_pipeline import numerics
numerics.pin("portable")
from image_pipeline.common import paths
from image_pipeline.exporting import check
from image_pipeline.exporting.onnx_file import to_onnx
from image_pipeline.modeling.model_file import read_model
from image_pipeline.tensors.tensor_files import read_split
check.MAX_IMAGES = 10**9
model, card = read_model(paths.MODEL)
exported = to_onnx(model, card, {})
found = check.compare(exported, model, card, read_split(paths.TEST_TENSORS))
print(found.images, found.same_class, found.max_difference)
"""
NO_WORDS = """
class Model(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.head = nn.Linear(shape[1], classes)

    def forward(self, images):
        return self.head(torch.linalg.svdvals(images[:, 0]))
"""


@pytest.fixture(scope="module")
def mnist(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project with MNIST's tensors, and a network of a user's in it."""
    require(SHARED_MNIST.is_dir(), "a copy of MNIST in ../shared")
    project = Project(tmp_path_factory.mktemp("mnist") / "project", {"train.epochs": 1})
    (project.root / "src/image_pipeline/models/own.py").write_text(f"{HEAD}{HYBRID}")
    for stage in ("download", "tensorize", "weights"):
        project.stage(stage, env={"DATASET_MIRROR": str(SHARED_MNIST)})
    keep_few(project, {"train": 5000, "validation": 1000})  # of the test split, all
    return project


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_runtime_and_pytorch_on_10000_images(name: str, mnist: Project) -> None:
    mnist.set_params({"train.model.name": name, **NETWORKS[name]})
    mnist.stage("train")
    images, same_class, apart = mnist.run(sys.executable, "-c", COMPARE).stdout.split()
    assert (images, same_class) == ("10000", "10000")
    assert float(apart) < 1e-5


def test_the_page_of_a_run(finished: Project, tmp_path: Path) -> None:
    project = finished
    text = (project.root / "models/README.md").read_text(encoding="utf-8")
    data: Any = ModelCard(text).data
    metrics = json.loads((project.root / "metrics/test.json").read_text())
    found = {result.metric_type: result.metric_value for result in data.eval_results}
    assert found == {
        "accuracy": metrics["accuracy"],
        "f1": metrics["macro_f1"],
        "loss": metrics["loss"],
        "expected_calibration_error": metrics["expected_calibration_error"],
    }

    # Its code, as a reader would copy it beside the files.
    for name in ("model.onnx", "model.safetensors"):
        (tmp_path / name).write_bytes((project.root / "models" / name).read_bytes())
    sample = read_sample(project.root / "data/tensors/test.safetensors", [7])
    Image.fromarray(sample.images[0, 0]).save(tmp_path / "image.png")
    (tmp_path / "code.py").write_text("\n".join(code_blocks(text, "python")))
    done = project.run("env", "-C", str(tmp_path), sys.executable, "code.py")
    by_onnx, by_pytorch = (line.split() for line in done.stdout.splitlines())
    assert by_onnx[0] == by_pytorch[0]
    assert abs(float(by_onnx[1]) - float(by_pytorch[1])) < 1e-5
    row = (project.root / "plots/predictions.csv").read_text().splitlines()[8].split(",")
    assert by_onnx[0] == row[1]
    assert abs(float(by_onnx[1]) - float(row[2])) < 1e-4  # another batch, and six digits


def test_a_network_that_onnx_has_no_operation_for(finished: Project, tmp_path: Path) -> None:
    project = finished.copy_to(tmp_path / "copy")
    (project.root / "src/image_pipeline/models/own.py").write_text(f"{HEAD}{NO_WORDS}")
    project.commit("a network")
    project.set_params({"train.model.name": "own", "train.epochs": 1})
    done = project.run("dvc", "repro", check=False)
    assert done.returncode != 0
    [said] = [line for line in done.stderr.splitlines() if "export: error: " in line]
    assert "own.py: ONNX has no operation for PyTorch's `aten::linalg_svdvals`; " in said
    assert "git checkout" not in said  # which would undo what the other stages made
    status = json.loads(project.run("dvc", "status", "--json").stdout)
    assert list(status) == ["export"]  # what the other stages made is kept

    done = project.run("dvc", "exp", "run", "--name", "without", "-S", "export.onnx=false")
    assert "Running stage 'train'" not in done.stdout
    assert "export: models/README.md, models/model.onnx: no ONNX file" in done.stdout
    assert (project.root / "models/model.onnx").read_bytes() == b""
    assert "model.onnx" not in (project.root / "models/README.md").read_text()
    assert "without" in project.run("dvc", "exp", "list").stdout


def test_its_manual(finished: Project) -> None:
    project = finished
    read, license_ = BLOCKS
    name, licence, _, _ = project.run("bash", "-c", read).stdout.splitlines()
    assert (name, licence) == ("Optical Recognition of Handwritten Digits", "cc-by-4.0")
    before = project.hashes()
    done = project.run("bash", "-c", license_)
    assert "Running stage 'export'" in done.stdout
    assert "Running stage 'train'" not in done.stdout
    changed = {name for name, digest in project.hashes().items() if before[name] != digest}
    assert changed == {"models/model.onnx", "models/README.md"}
    data: Any = ModelCard.load(project.root / "models/README.md").data
    assert data.license == "mit"
