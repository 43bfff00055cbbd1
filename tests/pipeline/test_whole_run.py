"""The main promises on one whole run: what it writes, what it runs again, one process or two."""

import json
from pathlib import Path
from typing import Any

import pytest
from kill_harness import STAGES, outputs
from ruamel.yaml import YAML

from project import ROOT, Project

DRAWN = "plots/curves.png"  # the final one by the plot stage


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project after `dvc repro` on the digits, committed."""
    project = Project(tmp_path_factory.mktemp("whole") / "project")
    done = project.run("dvc", "repro")
    for stage in STAGES:
        assert f"Running stage '{stage}'" in done.stdout
    assert "WARNING" not in done.stderr
    project.commit("its run")
    return project


def test_a_run_writes_exactly_the_declared_outputs(finished: Project) -> None:
    declared = set()
    stages: dict[str, Any] = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    for stage in stages.values():
        for kind in ("outs", "metrics", "plots"):
            declared |= {next(iter(o)) if isinstance(o, dict) else o for o in stage.get(kind, [])}
    folders = "data/raw/", "data/weights/"
    written = {
        str(Path(name).parent) if name.startswith(folders) else name for name in finished.hashes()
    }
    assert written == declared
    assert finished.git_status() == ""


def test_three_epochs_learn_the_digits(finished: Project) -> None:
    metrics = json.loads((finished.root / "metrics/test.json").read_text())
    assert metrics["images"] == 360
    assert metrics["accuracy"] > 0.5  # a tenth by chance
    assert json.loads((finished.root / "metrics/train.json").read_text())["portable"] is True


def test_a_second_run_has_nothing_to_do(finished: Project) -> None:
    before = outputs(finished), finished.times()
    done = finished.run("dvc", "repro")
    assert "Data and pipelines are up to date." in done.stdout
    assert "Running stage" not in done.stdout
    assert (outputs(finished), finished.times()) == before
    assert finished.git_status() == ""


def test_one_process_and_two_give_the_same_bits(finished: Project, tmp_path: Path) -> None:
    """A batch of 128 has two micro-batches. The run above had a process for each core."""
    for cores in (1, 2):
        project = finished.copy_to(tmp_path / str(cores))
        (project.root / "models/model.safetensors").unlink()
        project.set_params({"machine.cores": cores})
        project.stage("train", env=project.claiming(2, tmp_path / f"of {cores}"))
        left = project.hashes() | {DRAWN: finished.hashes()[DRAWN]}
        assert left == finished.hashes()
