"""Custom networks, dropped in as one file (custom_networks.py): they train, resume, are used.

Other processors are in test_processors.py.
"""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from custom_networks import HEAD, HYBRID, STOPPED_TRAINING, params_of, project_with_networks
from kill_harness import Undisturbed
from PIL import Image

from project import Project


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return project_with_networks(tmp_path_factory.mktemp("networks") / "project")


def test_killed_and_resumed(tensors: Project, tmp_path: Path) -> None:
    """The one that draws from Python's own dice, too."""
    whole, killed = tensors.copy_to(tmp_path / "whole"), tensors.copy_to(tmp_path / "killed")
    for project in (whole, killed):
        project.set_params(params_of("recurrent") | {"train.epochs": 15})
    whole.stage("train")

    process = subprocess.Popen(
        [sys.executable, "stages/train.py"], cwd=killed.root, env=killed.environment()
    )
    while not list((killed.root / "checkpoints").glob("*.checkpoint")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = killed.stage("train")
    assert "train: going on after epoch " in resumed.stdout
    assert killed.hashes() == whole.hashes()


def test_a_network_with_versions_is_stopped_resumed_and_used(
    tensors: Project, tmp_path: Path
) -> None:
    project = tensors.copy_to(tmp_path / "copy")
    project.set_params(params_of("versioned") | {"train.epochs": 2})
    stopped = project.run(sys.executable, "-c", STOPPED_TRAINING, check=False)
    assert stopped.returncode == 1
    assert not (project.root / "models").exists()
    assert "going on after epoch 1" in project.stage("train").stdout
    project.stage("evaluate")
    exported = project.stage("export").stdout
    assert "predict the same class for 40 of 40 validation images" in exported
    stroke = Image.new("L", (28, 28))
    stroke.paste(255, (13, 4, 16, 24))
    stroke.save(tmp_path / "one.png")
    done = project.run(
        sys.executable, "-m", "image_pipeline", "predict", str(tmp_path / "one.png"), "--csv"
    )
    assert len(done.stdout.splitlines()) == 2


def test_an_operation_that_is_not_proved_is_named_once(tensors: Project, tmp_path: Path) -> None:
    project = tensors.copy_to(tmp_path / "copy")
    project.set_params(params_of("unproved"))
    done = project.stage("train")
    [line] = [line for line in done.stderr.splitlines() if "WARNING" in line]
    assert "aten.logit.default" in line
    assert "layer `layers.0`" in line
    assert "not portable (aten.logit.default)" in done.stdout.splitlines()[-1]
    assert json.loads((project.root / "metrics/train.json").read_text())["portable"] is False


def test_one_network_never_retrains_another(undisturbed: tuple[Project, Undisturbed]) -> None:
    project, _ = undisturbed
    models = project.root / "src" / "image_pipeline" / "models"
    with (models / "cnn.py").open("a") as file:
        file.write("# a change\n")
    done = project.run("dvc", "repro")
    assert "Data and pipelines are up to date." in done.stdout

    # A new network, with a block of options that there was not.
    (models / "fresh.py").write_text(f'"""New."""\n{HEAD}{HYBRID}')
    project.commit("a new network")
    new = ("-S", "train.model.name=fresh", "-S", "+train.model.fresh.width=8")
    done = project.run("dvc", "exp", "run", "train", *new)
    assert "Running stage 'train'" in done.stdout

    # Its file changes behind the model's back.
    with (models / "fresh.py").open("a") as file:
        file.write("# a change\n")
    done = project.stage("evaluate", check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "evaluate: error: models/model.safetensors: its network, `fresh`, has been changed or "
        "removed since training (src/image_pipeline/models/fresh.py); run `dvc repro` to retrain"
    )
