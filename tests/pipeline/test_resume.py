"""A killed training goes on from its checkpoint, and from no other one."""

import os
import signal
from pathlib import Path

from kill_harness import Command

from project import TRAINED, Project, wait_until

PARAMS = {"train.epochs": 8, "train.model.mlp.hidden_sizes": [16]}
CHANGES = {
    "params.yaml": ("learning_rate: 8.0e-3", "learning_rate: 6.0e-3"),
    "src/image_pipeline/augmenting/augmentation.py": ("\nimport ", "\n# changed\nimport "),
}


def results(project: Project) -> dict[str, bytes]:
    return {name: (project.root / name).read_bytes() for name in TRAINED}


def checkpoints(project: Project) -> list[Path]:
    return list((project.root / "checkpoints").glob("*.checkpoint"))


def test_a_killed_training_goes_on_from_its_own_checkpoint(finished: Project) -> None:
    project = finished
    project.set_params(PARAMS)
    project.stage("train")
    whole = results(project)
    assert not list((project.root / "checkpoints").iterdir())  # a finished run removes its own
    with Command(project, "python", "stages/train.py") as command:
        pid = command.wait_for_stage("train")
        assert pid
        wait_until(lambda: checkpoints(project), "the first checkpoint")
        os.kill(pid, signal.SIGKILL)
        assert command.wait() == -signal.SIGKILL, command.text
    [checkpoint] = checkpoints(project)

    for name, (old, new) in CHANGES.items():  # with which it is another run
        path = project.root / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        done = project.stage("train")
        path.write_text(text)
        assert "going on" not in done.stdout
        assert "WARNING" not in done.stderr
        assert checkpoints(project) == [checkpoint]  # it waits for its setting to come back

    for name in TRAINED:
        (project.root / name).unlink()
    project.set_params({"machine.checkpoint_every": 0, "machine.cores": 1})  # of this machine alone
    done = project.stage("train")
    [said] = [line for line in done.stdout.splitlines() if line.startswith("train: going on")]
    assert said.endswith(f" from {checkpoint.relative_to(project.root)}")
    assert int(said.removeprefix("train: going on after epoch ").split()[0]) in range(1, 8)
    assert results(project) == whole
    assert checkpoints(project) == []
