"""A frozen backbone in whole runs: the same bits whatever computes its features, and only once."""

import hashlib
import shutil
from pathlib import Path

import pytest

from image_pipeline.augmenting.params import AUGMENTATION_AMOUNTS
from project import Project


@pytest.fixture
def frozen(finished: Project, tmp_path: Path) -> Project:
    """Return a project whose last layer learns on the layers of a model of this pipeline."""
    project = finished.copy_to(tmp_path / "project")
    own = project.root / "own.safetensors"
    shutil.copy(project.root / "models" / "model.safetensors", own)
    project.set_params(
        {
            "weights.path": own.name,
            "weights.sha256": hashlib.sha256(own.read_bytes()).hexdigest(),
            "weights.mean": [0.3],
            "weights.std": [0.4],
            "train.transfer.name": "frozen",
            **{f"train.augmentation.{amount}": 0 for amount in AUGMENTATION_AMOUNTS},
        }
    )
    project.commit("a frozen backbone")
    project.stage("weights")
    return project


def features(project: Project) -> list[Path]:
    return list((project.root / "checkpoints" / "features").iterdir())


def test_the_model_does_not_depend_on_who_computed_the_features(frozen: Project) -> None:
    said = frozen.stage("train")
    assert "features: 100%" in said.stderr
    assert ", portable; " in said.stdout
    expected = frozen.hashes()
    [path] = features(frozen)
    again = frozen.stage("train")
    assert "features:" not in again.stderr
    assert frozen.hashes() == expected
    path.write_bytes(path.read_bytes()[:-1])
    frozen.set_params({"machine.cores": 1})
    damaged = frozen.stage("train")
    assert f"WARNING: checkpoints/features/{path.name}: these features are da" in damaged.stderr
    assert frozen.hashes() == expected
    assert "accuracy" in frozen.stage("evaluate").stdout


def test_runs_on_dvcs_queue_share_the_features(frozen: Project) -> None:
    frozen.run("python", "-m", "image_pipeline", "seeds", "3")
    [path] = features(frozen)
    written = path.stat().st_mtime_ns
    frozen.run("python", "-m", "image_pipeline", "seeds", "4")
    assert [found.stat().st_mtime_ns for found in features(frozen)] == [written]
