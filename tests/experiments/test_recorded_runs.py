"""`verify --against`: two runs are compared stage by stage, by dvc.lock, and nothing runs.

Real stages that part by one bit are in tests/pipeline/test_sabotage.py.
"""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from experiments.experiment_projects import SyntheticProject, call, command_error
from experiments.test_receipts import RECEIPT
from image_pipeline.common.hashes import dvc_md5

Stages = dict[str, dict[str, Any]]
Change = Callable[[Stages], object]


def of_paths(*paths: str) -> list[dict[str, str]]:
    return [{"path": path, "hash": "md5", "md5": path[:2].encode().hex() * 8} for path in paths]


# In the order of their names, so that the pipeline's has to be found.
STAGES: Stages = {
    "evaluate": {
        "cmd": "python evaluate.py",
        "deps": of_paths("model", "src/evaluation", "requirements.lock"),
        "params": {"params.yaml": {"evaluate": {"batch_size": 8}}},
        "outs": of_paths("a_table"),
    },
    "tensorize": {
        "cmd": "python tensorize.py",
        "deps": of_paths("images", "requirements.lock"),
        "outs": of_paths("tensors"),
    },
    "train": {
        "cmd": "python train.py",
        "deps": of_paths("tensors/train", "src/training", "requirements.lock"),
        "params": {"params.yaml": {"train": {"seed": 0}}},
        "outs": of_paths("metrics/receipt.json", "model"),
    },
}
NOT_REPRODUCED = (
    "it read the same and wrote other bits; `verify` on each says whose are not what the code "
    "produces"
)


def write_run(root: Path, stages: Stages, receipt: dict[str, list[str]] | None = None) -> None:
    """Write the records of a run."""
    stages = copy.deepcopy(stages)
    path = root / "metrics/receipt.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(receipt or RECEIPT))
    entry(stages, "train", "metrics/receipt.json")["md5"] = dvc_md5(path)
    with (root / "dvc.lock").open("w") as file:
        YAML().dump({"schema": "2.0", "stages": stages}, file)


def entry(stages: Stages, stage: str, path: str, kind: str = "outs") -> dict[str, str]:
    entries: list[dict[str, str]] = stages[stage][kind]
    [found] = [each for each in entries if each["path"] == path]
    return found


def other_bits(stages: Stages, stage: str, path: str, kind: str = "outs") -> None:
    entry(stages, stage, path, kind)["md5"] = "f" * 32


@pytest.fixture
def project(tmp_path: Path) -> SyntheticProject:
    project = SyntheticProject(tmp_path / "project")
    write_run(project.root, STAGES)
    project.commit("a run")
    return project


def against(
    project: SyntheticProject, change: Change, receipt: dict[str, list[str]] | None = None
) -> tuple[int, list[str], str]:
    """Compare with another project; return the exit status, what was said, and the notes."""
    stages = copy.deepcopy(STAGES)
    change(stages)
    write_run(project.root.parent / "other", stages, receipt)
    done = call(project, "verify", "--against", "../other", check=False)
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_the_same_run_in_every_form(project: SyntheticProject) -> None:
    forms = {"../other": "../other", "../other/dvc.lock": "../other/dvc.lock", "HEAD": "HEAD ("}
    write_run(project.root.parent / "other", STAGES)
    for form, shown in forms.items():
        done = call(project, "verify", "--against", form)
        assert done.stdout.startswith(f"verify: workspace and {shown}")
        assert done.stdout.endswith(" are the same: params, code, data and all 4 outputs\n")
    done = call(project, "verify", "HEAD", "--against", "../other/metrics/receipt.json")
    assert done.stdout.endswith(" are the same: params and all 11 hashes\n")


def consequences(stages: Stages) -> None:
    """Differ from train on, with all that follows."""
    other_bits(stages, "train", "model")
    other_bits(stages, "evaluate", "model", "deps")
    other_bits(stages, "evaluate", "a_table")


def another_seed(stages: Stages) -> None:
    stages["train"]["params"]["params.yaml"]["train"]["seed"] = 1
    consequences(stages)


def other_code_and_images(stages: Stages) -> None:
    stages["train"]["deps"].pop(1)
    other_bits(stages, "tensorize", "images", "deps")
    stages["train"]["cmd"] = "python other.py"


def other_packages_and_two_parted_stages(stages: Stages) -> None:
    other_bits(stages, "train", "requirements.lock", "deps")
    other_bits(stages, "evaluate", "a_table")
    other_bits(stages, "tensorize", "tensors")


def of_two_runs(stages: Stages) -> None:
    """Say that evaluate read another model than the one that train wrote."""
    other_bits(stages, "evaluate", "model", "deps")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            consequences,
            [
                "model: 6d6f6d6 here, fffffff there; an output of train",
                f"part in train: {NOT_REPRODUCED}",
            ],
        ),
        (
            another_seed,
            [
                "train.seed: 0 here, 1 there",
                "model: 6d6f6d6 here, fffffff there; an output of train",
                "are runs of different params; the outputs differ from train on",
            ],
        ),
        (
            other_code_and_images,
            [
                "images: 696d696 here, fffffff there; data of tensorize",
                "the command of train: python train.py here, python other.py there; code of train",
                "src/training: 7372737 here, none there; code of train",
                "are runs of different data and code; all outputs are the same",
            ],
        ),
        (
            other_packages_and_two_parted_stages,
            [
                "requirements.lock: 7265726 here, fffffff there; environment of train",
                "tensors: 7465746 here, fffffff there; an output of tensorize",
                "a_table: 615f615 here, fffffff there; an output of evaluate",
                "part in tensorize: it read the same and wrote other bits; their environment "
                "differ, too; `verify` on each says whose are not what the code produces",
            ],
        ),
        (
            of_two_runs,
            [
                "model: 6d6f6d6 here, fffffff there; data of evaluate",
                "are runs of different data; all outputs are the same",
            ],
        ),
        (
            lambda stages: stages.update(fly=stages.pop("evaluate")),
            [
                "the stage evaluate: only here",
                "the stage fly: only there",
                "are the same in the 2 stages that both have run: params, code, data and all 3 "
                "outputs",
            ],
        ),
    ],
)
def test_where_they_part(project: SyntheticProject, change: Change, said: list[str]) -> None:
    *lines, verdict = said
    expected = [
        *(f"DIFFERS  {line}" for line in lines),
        f"verify: workspace and ../other {verdict}",
    ]
    assert against(project, change) == (1, expected, "")


def test_the_tensor_in_which_a_training_parts(project: SyntheticProject) -> None:
    receipt = RECEIPT | {"epochs": ["epoch 1: 0", "epoch 2: 0"]}
    status, said, note = against(project, lambda _: None, receipt)
    assert (status, note) == (1, "")
    assert [line.partition(": ")[0] for line in said[:2]] == [
        "DIFFERS  metrics/receipt.json",
        "DIFFERS  train, epoch 1",
    ]
    assert said[2].endswith(f"part in train: {NOT_REPRODUCED}")
    done = call(project, "verify", "--against", "../other/dvc.lock", check=False)
    assert done.stdout.count("\n") == 2
    assert done.stderr == (
        "verify: note: the metrics/receipt.json of both would say at which step and in which "
        "tensor\n"
    )


def test_records_that_do_not_belong_together(project: SyntheticProject) -> None:
    other = project.root.parent / "other"
    write_run(other, STAGES)
    (other / "metrics/receipt.json").write_text(json.dumps(RECEIPT | {"epochs": []}))
    for path, said in (
        ("../other", "metrics/receipt.json in ../other: not the one of the run in dvc.lock; "),
        ("../other/metrics", "dvc.lock: not in ../other/metrics; there is no run to read"),
    ):
        assert command_error(project, "verify", "--against", path).startswith(said)


def lock(text: str) -> str:
    return f"schema: '2.0'\nstages:\n  a: {text}\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lock("{cmd: x"), "while parsing a flow mapping "),
        (lock("[" * 101 + "]" * 101), "too deeply nested"),
        (lock("[" * 2_000 + "]" * 2_000), "too deeply nested"),
        ("stages: {}\n", "stages: Dictionary should have at least 1 item"),
        (lock("{outs: []}"), "stages.a.cmd: Field required"),
        (lock("{cmd: x, outs: [{path: y}]}"), "stages.a.outs.0.md5: Field required"),
        (lock("{cmd: x, params: {p: [1]}}"), "stages.a.params.p: Input should be a valid "),
        (lock("&a {cmd: x, params: {p: {q: *a}}}"), "too deeply nested"),
        (
            "z: &z [0]\ny: &y [*z]\n".replace("*z", ",".join(["*z"] * 2_000))
            + f"x: [{','.join(['*y'] * 2_000)}]\n"
            + lock("{cmd: x}"),
            "too large",
        ),
        (
            lock("{cmd: x, deps: [{path: y/z, md5: '0'}], outs: [{path: y, md5: '0'}]}"),
            "its stages wait for each other",
        ),
        ("stages:\n\0", "unacceptable character"),
        (lock("!!bool x"), "KeyError('x')"),
        (f"stages:\n  a: {'9' * 5_000}\n", "Exceeds the limit (4300 digits)"),
    ],
)
def test_what_is_no_lock(project: SyntheticProject, content: str, reason: str) -> None:
    (project.root / "their.lock").write_text(content)
    said = command_error(project, "verify", "--against", "their.lock")
    assert said.startswith(f"their.lock: not a dvc.lock of a run ({reason}")
    assert said.endswith("; `dvc repro` writes one\n")


def test_a_strangers_lock_controls_no_terminal(project: SyntheticProject) -> None:
    def evil(stages: Stages) -> None:
        stages["\x1b[2J"] = {"cmd": "x"}
        stages["train"]["params"] = {"p": {"seed\x1b[2J": "\x1b]0;x\x07"}}
        stages["train"]["deps"] += [{"path": "src/\x1b[2J", "md5": "\x1b[2J"}]
        stages["tensorize"]["outs"] += [{"path": "\x9b2J", "md5": "\x1b[2J"}]

    _, said, _ = against(project, evil)
    assert sum("2J" in line for line in said) == 4
    assert all(line.isprintable() for line in said)
