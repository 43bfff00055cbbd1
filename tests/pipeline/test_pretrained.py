"""Training that starts from given weights, by DVC: all of it, or the last layer on a frozen one."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from image_pipeline.augmenting.params import AUGMENTATION_AMOUNTS
from image_pipeline.modeling import networks
from project import Project


@pytest.fixture
def started(finished: Project, tmp_path: Path) -> Project:
    """Return a copy of the finished project, with weights for its network from another task."""
    project = finished.copy_to(tmp_path / "project")
    torch.manual_seed(5)
    weights = networks.build("mlp", {}, (1, 28, 28), 7).state_dict()
    save_file(weights, project.root / "w.safetensors")
    digest = hashlib.sha256((project.root / "w.safetensors").read_bytes()).hexdigest()
    project.set_params(
        {
            "weights.path": "w.safetensors",
            "weights.sha256": digest,
            "weights.mean": [0.25],
            "weights.std": [0.5],
            "train.learning_rate": 1e-9,
        }
    )
    return project


def test_from_a_file_of_weights_to_a_model_without_it(started: Project) -> None:
    done = started.run("dvc", "repro")
    assert "weights: w.safetensors (other), checked; in data/weights" in done.stdout
    assert ", portable; models/model.safetensors" in done.stdout
    assert "WARNING" not in done.stderr
    given = load_file(started.root / "w.safetensors")
    model = load_file(started.root / "models" / "model.safetensors")
    assert torch.allclose(model["hidden.0.weight"], given["hidden.0.weight"], atol=1e-6)
    assert model["output.weight"].shape == (10, 84)  # for 10 classes, not for 7
    page = (started.root / "models" / "README.md").read_text()
    assert "Training started from w.safetensors" in page
    assert "with the mean\n0.25 and the standard deviation 0.5" in page

    before = started.hashes()
    (started.root / "w.safetensors").unlink()
    assert "Running stage" not in started.run("dvc", "repro").stdout
    for path in (started.root / "data" / "weights").iterdir():
        path.unlink()
    for stage in ("evaluate", "plot", "export"):
        started.stage(stage)
    after = started.hashes()
    assert {name for name in before if before[name] != after.get(name)} == {
        "data/weights/w.safetensors",
        "data/weights/weights.json",
    }


def test_where_nothing_can_be_fetched_the_stage_says_what_it_tried(
    finished: Project, tmp_path: Path
) -> None:
    project = finished.copy_to(tmp_path / "project")
    project.set_params({"train.model.name": "torchvision"})
    closed = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    done = project.stage("weights", env=closed | {"no_proxy": ""}, check=False)
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert said.startswith("weights: error: resnet18-f37072fd.pth could not be downloaded from any")
    assert "https://download.pytorch.org/models/resnet18-f37072fd.pth: no connection" in said
    manifest = project.root / "data" / "weights" / "weights.json"
    assert json.loads(manifest.read_text()) is None  # as it was


def test_features_of_a_frozen_network_are_computed_once(started: Project) -> None:
    """By this run or by those on DVC's queue, and the model does not depend on by whom."""
    started.set_params({"train.transfer.name": "frozen", "train.learning_rate": 8.0e-3})
    started.set_params({f"train.augmentation.{amount}": 0 for amount in AUGMENTATION_AMOUNTS})
    started.commit("a frozen network")
    started.stage("weights")
    said = started.stage("train")
    assert "features: 100%" in said.stderr
    assert ", portable; " in said.stdout
    expected = started.hashes()
    [path] = (started.root / "checkpoints" / "features").iterdir()
    again = started.stage("train")
    assert "features:" not in again.stderr
    assert started.hashes() == expected

    path.write_bytes(path.read_bytes()[:-1])
    started.set_params({"machine.cores": 1})
    damaged = started.stage("train")
    assert f"WARNING: checkpoints/features/{path.name}: these features are da" in damaged.stderr
    assert started.hashes() == expected
    assert "accuracy" in started.stage("evaluate").stdout

    written = path.stat().st_mtime_ns
    started.run("python", "-m", "image_pipeline", "seeds", "2")
    [found] = path.parent.iterdir()
    assert (found, found.stat().st_mtime_ns) == (path, written)
