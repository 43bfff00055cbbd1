"""A killed training goes on from its checkpoint, and from no other one."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from kill_harness import Command, wait_until

from project import TRAINED, Project

PARAMS = {"train.epochs": 8, "train.model.mlp.hidden_sizes": [16]}


def results(project: Project) -> dict[str, bytes]:
    return {name: (project.root / name).read_bytes() for name in TRAINED}


def checkpoints(project: Project) -> list[Path]:
    return sorted((project.root / "checkpoints").glob("*"))


def kill_in_training(project: Project) -> Path:
    """Kill the train stage once it has written a checkpoint; return the checkpoint."""
    with Command(project, "python", "stages/train.py") as command:
        pid = command.wait_for_stage("train")
        assert pid
        wait_until(
            lambda: any(path.suffix == ".checkpoint" for path in checkpoints(project)),
            "the first checkpoint",
        )
        os.kill(pid, signal.SIGKILL)
        assert command.wait() == -signal.SIGKILL, command.text
    return next(path for path in checkpoints(project) if path.suffix == ".checkpoint")


@pytest.fixture(scope="module")
def trained(finished: Project) -> tuple[Project, dict[str, bytes]]:
    """A project with an uninterrupted training's results."""
    finished.set_params(PARAMS)
    finished.stage("train")
    assert checkpoints(finished) == []  # a finished run removes its own
    return finished, results(finished)


@pytest.fixture(scope="module")
def killed(trained: tuple[Project, dict[str, bytes]]) -> tuple[Project, dict[str, bytes], Path]:
    """The project after a kill in training; the checkpoint is a copy beside it."""
    project, whole = trained
    found = kill_in_training(project)
    kept = project.root.parent / found.name
    shutil.copy(found, kept)
    return project, whole, kept


@pytest.fixture
def after_kill(
    killed: tuple[Project, dict[str, bytes], Path],
) -> tuple[Project, dict[str, bytes], Path]:
    """As the kill left it: the checkpoint in its place, the results those of the run before."""
    project, whole, kept = killed
    shutil.rmtree(project.root / "checkpoints")
    (project.root / "checkpoints").mkdir()
    shutil.copy(kept, project.root / "checkpoints")
    for name in TRAINED:
        (project.root / name).unlink(missing_ok=True)
    project.set_params(PARAMS)
    return project, whole, project.root / "checkpoints" / kept.name


def test_a_killed_run_goes_on_whatever_the_machines_settings_are_now(
    after_kill: tuple[Project, dict[str, bytes], Path],
) -> None:
    project, whole, checkpoint = after_kill
    project.set_params({"machine.checkpoint_every": 0, "machine.cores": 1})
    done = project.stage("train")
    name = checkpoint.relative_to(project.root).as_posix()
    said = [line for line in done.stdout.splitlines() if line.startswith("train: going on")]
    assert len(said) == 1
    assert said[0].endswith(f" from {name}")
    assert int(said[0].removeprefix("train: going on after epoch ").split()[0]) in range(1, 8)
    assert results(project) == whole
    assert checkpoints(project) == []


def change_param(root: Path) -> None:
    params = root / "params.yaml"
    text = params.read_text()
    assert "learning_rate: 8.0e-3" in text
    params.write_text(text.replace("learning_rate: 8.0e-3", "learning_rate: 6.0e-3"))


def append(name: str) -> Any:
    def change(root: Path) -> None:
        with (root / name).open("a") as file:
            file.write("# changed\n")

    return change


CHANGES = {
    "param": change_param,
    "library": append("src/image_pipeline/augmenting/augmentation.py"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_change_never_meets_the_old_checkpoint(
    after_kill: tuple[Project, dict[str, bytes], Path], change: Any
) -> None:
    project, _, checkpoint = after_kill
    copies = {
        name: (project.root / name).read_bytes()
        for name in ("params.yaml", "src/image_pipeline/augmenting/augmentation.py")
    }
    change(project.root)
    try:
        done = project.stage("train")
    finally:
        for name, content in copies.items():
            (project.root / name).write_bytes(content)
    assert "going on" not in done.stdout
    assert "WARNING" not in done.stderr
    assert checkpoints(project) == [checkpoint]  # it waits for its setting to come back
