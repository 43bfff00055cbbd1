"""`verify --against`: two receipts are compared, and nothing runs.

Where trainings that part by one bit are told apart: in tests/training/test_receipt.py. Whole runs,
by dvc.lock: in test_recorded_runs.py.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from experiments.experiment_projects import SyntheticProject, call, command_error
from image_pipeline.common.hashes import dvc_md5

RECEIPT: dict[str, list[str]] = {
    "about": ["hashes"],
    "params": ['train.loss: {"name": "focal", "focal": {"gamma": 2.0}}', "train.seed: 0"],
    "inputs": ["data/tensors/train.safetensors: 01", "data/weights/weights.json: 02"],
    "initial_weights": ["`a`: 03", "`b`: 04"],
    "first_step": ["input: 05", "output of the layer `a: b`: 06", "loss: 07"],
    "epochs": ["epoch 1: 08", "epoch 2: 09"],
    "final_weights": ["`a`: 10", "`b`: 11"],
}


@pytest.fixture
def project(tmp_path: Path) -> SyntheticProject:
    """Return a project with a committed receipt, which its dvc.lock knows."""
    project = SyntheticProject(tmp_path / "project")
    path = project.root / "metrics/receipt.json"
    path.write_text(json.dumps(RECEIPT))
    outs = {
        "tensorize": {"path": "data/tensors/train.safetensors", "md5": "0" * 32},
        "weights": {"path": "data/weights", "md5": f"{'0' * 32}.dir"},
        "train": {"path": "metrics/receipt.json", "md5": dvc_md5(path)},
    }
    stages = {name: {"cmd": name, "outs": [out]} for name, out in outs.items()}
    with (project.root / "dvc.lock").open("w") as file:
        YAML().dump({"schema": "2.0", "stages": stages}, file)
    project.commit("a run")
    return project


def against(project: SyntheticProject, **changes: list[str]) -> tuple[int, list[str]]:
    """Compare with a receipt that has other sections; return the exit status and what was said."""
    path = project.root.parent / "other.json"
    path.write_text(json.dumps(RECEIPT | changes))
    done = call(project, "verify", "--against", "../other.json", check=False)
    return done.returncode, done.stdout.splitlines()


SAME_INPUTS = "verify: workspace and ../other.json part, with the same params and data"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"first_step": ["input: 05"]},
            "train, epoch 1, step 1: the output of the layer `a: b` here and nothing there is the "
            "first tensor that differs; 1 of 3 before it are the same",
        ),
        (
            {"final_weights": ["`a`: 0", "`b`: 11"]},
            "train, after the last epoch: `a` is the first tensor that differs; 0 of 2 before it "
            "are the same",
        ),
    ],
)
def test_the_first_difference(
    project: SyntheticProject, changes: dict[str, list[str]], said: str
) -> None:
    assert against(project, **changes) == (1, [f"DIFFERS  {said}", SAME_INPUTS])


def test_other_params_and_data_come_first(project: SyntheticProject) -> None:
    status, said = against(
        project,
        params=['train.loss: {"name": "focal", "focal": {"gamma": 3.0}}', "train.seed: 0"],
        inputs=["data/tensors/train.safetensors: 1", "data/weights/weights.json: 2"],
        epochs=["epoch 1: 08", "epoch 2: 0"],
    )
    assert status == 1
    assert said == [
        "DIFFERS  train.loss.focal.gamma: 2.0 here, 3.0 there",
        "DIFFERS  data/tensors/train.safetensors: 01 here, 1 there; an output of tensorize",
        "DIFFERS  data/weights/weights.json: 02 here, 2 there; an output of weights",
        "DIFFERS  train, epoch 2: the weights at its end are the first that differ; 1 of 2 before "
        "it are the same",
        "verify: workspace and ../other.json are runs of different params or data",
    ]


def test_a_commit_and_an_edited_receipt(project: SyntheticProject) -> None:
    """The workspace counts, unless a commit is named; an edited receipt is no run's."""
    own = project.root / "metrics/receipt.json"
    own.write_text(json.dumps(RECEIPT | {"epochs": ["epoch 1: 0"]}))
    (project.root / "a.json").write_text(json.dumps(RECEIPT))
    assert command_error(project, "verify", "--against", "a.json") == (
        "metrics/receipt.json in workspace: not the one of the run in dvc.lock; run `dvc repro`\n"
    )
    assert "HEAD (" in call(project, "verify", "HEAD", "--against", "a.json").stdout
    own.unlink()
    assert command_error(project, "verify", "--against", "a.json") == (
        "metrics/receipt.json: not in workspace; `dvc repro` writes it\n"
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "JSONDecodeError: "),
        ("[1]", "TypeError: "),
        ("{}", "KeyError: 'params'"),
        (json.dumps(RECEIPT | {"epochs": [7]}), "ValueError: `epochs` has a line without a name"),
        (json.dumps(RECEIPT | {"params": ["a: b"]}), "JSONDecodeError: "),
        ("[" * 100_000, "RecursionError: "),
    ],
)
def test_what_is_no_receipt(project: SyntheticProject, content: str, reason: str) -> None:
    (project.root / "a.json").write_text(content)
    said = command_error(project, "verify", "--against", "a.json")
    assert said.startswith(f"a.json: not a receipt of a training ({reason}")


def test_mistakes_on_the_command_line(project: SyntheticProject) -> None:
    for arguments, said in (
        (["no.json"], "no.json: no such file, folder or revision; give a receipt."),
        (["a", "--stage", "train"], "--stage: --against runs no stage; leave one of "),
    ):
        assert command_error(project, "verify", "--against", *arguments, status=2).startswith(said)


def test_a_strangers_file_controls_no_terminal(project: SyntheticProject) -> None:
    evil: dict[str, Any] = {"params": ['train.seed: "\\u001b[2J"'], "epochs": ["\x1b]0;x\x07: 1"]}
    _, said = against(project, **evil)
    assert any("?[2J" in line for line in said)
    assert any("?]0;x?" in line for line in said)
    assert all(line.isprintable() for line in said)
