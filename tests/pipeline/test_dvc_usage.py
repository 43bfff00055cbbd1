"""DVC is used as its users expect: what is up to date is skipped, what ran before comes back."""

import csv
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from declared_plots import CHARTS, PICTURES
from project import IDENTITY, ROOT, Project

DVC = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())
STAGES = list(DVC["stages"])
AFTER_TRAINING_CHANGED = ["train", "evaluate", "plot", "export"]  # the stages that then run again


@pytest.fixture
def copy(finished: Project, tmp_path: Path) -> Project:
    """Return a copy of the finished project, with DVC's cache."""
    return finished.copy_to(tmp_path / "copy")


class Tracer:
    """A `python` that comes first on PATH and writes down what it is asked to run."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._log = folder / "log"
        wrapper = folder / "python"
        wrapper.write_text(f'#!/bin/sh\necho "$*" >> "{self._log}"\nexec "{sys.executable}" "$@"\n')
        wrapper.chmod(0o755)
        venv = Path(sys.executable).parent
        self.env = {"PATH": os.pathsep.join([str(folder), str(venv), os.environ["PATH"]])}

    def commands(self) -> list[str]:
        """Return the command lines since the last call."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        self._log.write_text("")
        return lines


@pytest.fixture
def tracer(tmp_path: Path) -> Tracer:
    return Tracer(tmp_path / "tracer")


@pytest.fixture(scope="module")
def changed(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a copy of the finished project that then ran two epochs instead of three."""
    folder = tmp_path_factory.mktemp("changed")
    project, tracer = finished.copy_to(folder / "copy"), Tracer(folder / "tracer")
    project.set_params({"train.epochs": 2})
    project.run("dvc", "repro", env=tracer.env)
    assert tracer.commands() == [f"stages/{name}.py" for name in AFTER_TRAINING_CHANGED]
    return project


def test_settings_that_ran_before_come_back_without_running(
    finished: Project, changed: Project, tmp_path: Path, tracer: Tracer
) -> None:
    first, second = finished.hashes(), changed.hashes()
    # What is compared here, and of other machines elsewhere, does depend on what is computed.
    of_the_data = {
        name for name in first if name.startswith(("data/", "metrics/data", "plots/data"))
    }
    of_the_images = ("class_balance.csv", "class_balance.png", "samples.png", "training_sample.png")
    same = of_the_data | {f"plots/{name}" for name in of_the_images}
    assert {name for name in first if first[name] == second[name]} == same

    again = changed.copy_to(tmp_path / "again")
    again.set_params({"train.epochs": 3})
    done = again.run("dvc", "repro", env=tracer.env)
    assert tracer.commands() == []
    for name in AFTER_TRAINING_CHANGED:
        assert f"Stage '{name}' is cached - skipping run, checking out outputs" in done.stdout
    assert again.hashes() == first
    assert again.git_status() == ""


def changed_in(diff: dict[str, Any], path: str, key: str) -> tuple[Any, Any]:
    """Return a key's old and new value from the JSON of `dvc metrics diff` or `dvc params diff`."""
    change = diff[path][key]
    return change["old"], change["new"]


def check_metrics_and_params(project: Project, *revisions: str) -> None:
    """Check that three epochs against two show in the metrics and the params."""
    metrics = json.loads(project.run("dvc", "metrics", "diff", "--json", *revisions).stdout)
    assert changed_in(metrics, "metrics/train.json", "epochs") == (3, 2)
    assert "metrics/receipt.json" not in metrics  # which has hundreds of hashes
    for path, key in (
        ("metrics/train.json", "validation.accuracy"),
        ("metrics/train.json", "train.loss"),
        ("metrics/test.json", "accuracy"),
        ("metrics/test.json", "errors"),
    ):
        old, new = changed_in(metrics, path, key)
        assert old != new, key
    params = json.loads(project.run("dvc", "params", "diff", "--json", *revisions).stdout)
    assert params == {"params.yaml": {"train.epochs": {"old": 3, "new": 2, "diff": -1}}}


def check_plots(project: Project, old: str, new: str, *revisions: str) -> None:
    """Check that every chart and picture of dvc.yaml is compared."""
    shown = json.loads(project.run("dvc", "plots", "diff", "--json", *revisions).stdout)
    assert shown.get("errors", []) == []
    assert sorted(shown["data"]) == sorted([*CHARTS, *PICTURES])
    for name in CHARTS:
        assert {revision for plot in shown["data"][name] for revision in plot["revisions"]} == {
            old,
            new,
        }
    done = project.run("dvc", "plots", "diff", *revisions)
    assert "WARNING" not in done.stderr
    page = (project.root / "dvc_plots/index.html").read_text(encoding="utf-8")
    for revision in (old, new):
        for picture in PICTURES:
            name = f"{revision}_{picture.replace('/', '_')}"
            assert f"static/{name}" in page
            assert (project.root / "dvc_plots/static" / name).stat().st_size > 1000
    assert all(chart["title"] in page for chart in CHARTS.values())


def test_one_changed_setting_is_compared_with_the_last_commit(changed: Project) -> None:
    check_metrics_and_params(changed, "HEAD")
    check_plots(changed, "HEAD", "workspace", "HEAD")
    table = changed.run("dvc", "metrics", "diff").stdout
    assert re.search(r"^metrics/train\.json +epochs +3 +2 +-1$", table, re.MULTILINE)


def test_what_other_settings_move_fits_on_a_screen(copy: Project) -> None:
    """Nothing of each class is among the metrics: all of them change here."""
    copy.set_params({"tensorize.seed": 1, "tensorize.validation_fraction": 0.2, "train.epochs": 2})
    copy.run("dvc", "repro")
    metrics = json.loads(copy.run("dvc", "metrics", "diff", "--json").stdout)
    rows = [(path, key) for path, changed in metrics.items() for key in changed]
    assert {("metrics/test.json", "errors"), ("metrics/train.json", "train.loss")} <= {*rows}
    assert len(rows) <= 12
    table = copy.run("dvc", "metrics", "diff", "--md").stdout
    assert table.count("\n| metrics/") == len(rows)


def test_two_commits_of_a_plain_clone_are_compared(changed: Project, tmp_path: Path) -> None:
    committed = changed.copy_to(tmp_path / "committed")
    committed.commit("two epochs")
    clone = committed.clone_to(tmp_path / "clone")
    assert not (clone.root / ".dvc/cache").exists()
    assert not (clone.root / "models").exists()
    assert clone.run("dvc", "remote", "list").stdout == ""
    check_metrics_and_params(clone, "HEAD~1", "HEAD")
    check_plots(clone, "HEAD~1", "HEAD", "HEAD~1", "HEAD")
    assert clone.git_status() == ""


def experiments(project: Project) -> dict[str, dict[str, str]]:
    """Return the rows of `dvc exp show` by the experiments' names."""
    table = project.run("dvc", "exp", "show", "--csv", "--hide-workspace").stdout
    return {row["Experiment"]: row for row in csv.DictReader(table.splitlines())}


def test_experiments_are_listed_and_fit_on_a_screen(changed: Project, tmp_path: Path) -> None:
    """A queue of them is in experiments/test_seeds.py."""
    project = changed.copy_to(tmp_path / "copy")  # whose cache has the run of two epochs
    project.run("git", "checkout", "--quiet", ".")

    def run(*command: str) -> str:
        return project.run("dvc", *command, env=IDENTITY).stdout

    run("exp", "run", "--name", "at-once", "-S", "train.epochs=2")
    at_once = json.loads((project.root / "metrics/train.json").read_text())
    assert at_once["epochs"] == 2
    project.run("git", "checkout", "--quiet", ".")
    run("exp", "run", "--temp", "--name", "aside", "-S", "train.epochs=1", "-S", "train.seed=1")

    rows = experiments(project)
    for name, epochs, seed in (("at-once", "2", "0"), ("aside", "1", "1")):
        assert rows[name]["train.epochs"] == rows[name]["epochs"] == epochs
        assert rows[name]["train.seed"] == seed
        assert 0.3 < float(rows[name]["accuracy"]) <= 1
        assert int(rows[name]["errors"]) == round((1 - float(rows[name]["accuracy"])) * 360)
    assert float(rows["at-once"]["validation.accuracy"]) == at_once["validation"]["accuracy"]
    shown = json.loads(run("exp", "show", "--json"))
    found = {item["name"] for base in shown for item in base["experiments"] or []}
    assert found == {"at-once", "aside"}
    # The files' hashes would come last, and leave no room for the settings before them.
    on_a_screen = ("--only-changed", "--no-pager", "--hide-workspace")
    drop = ("--drop", ".*/|Created|.*loss|expected")
    wide = project.run("dvc", "exp", "show", *on_a_screen, *drop, env={"COLUMNS": "160"}).stdout
    assert all(column in wide for column in ("errors", "train.seed", "train.epochs", "aside"))
    assert "…" not in wide
    assert project.git_status() == ""


@pytest.mark.parametrize("name", STAGES)
def test_help_says_what_the_stage_does(name: str, finished: Project) -> None:
    before = finished.times()
    done = finished.run("python", f"stages/{name}.py", "--help")
    first_line = (ROOT / "stages" / f"{name}.py").read_text().splitlines()[0].removeprefix('"""')
    assert done.stdout.startswith(f"usage: python stages/{name}.py [-h]\n")
    assert first_line.rstrip('"') in done.stdout
    assert "params.yaml" in done.stdout
    assert done.stderr == ""
    assert finished.times() == before


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_says_when_it_runs_elsewhere(name: str, finished: Project, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    script = finished.root / "stages" / f"{name}.py"
    done = finished.run("env", "-C", str(elsewhere), "python", str(script), check=False)
    assert done.returncode == 2
    assert done.stderr == (
        f"{name}: error: params.yaml: not found in {elsewhere}; run from the project's root\n"
    )
    assert done.stdout == ""
    assert list(elsewhere.iterdir()) == []


MISTAKES = {"evaluate:": "evalaute:", "  epochs: 3 ": "  epochs: many "}
PROBLEMS = (
    "evalaute: unknown key",
    "evaluate: missing",
    "train.epochs: 'many' is not allowed: input should be a valid integer",
)


def test_every_stage_refuses_bad_params_before_it_touches_anything(copy: Project) -> None:
    params = copy.root / "params.yaml"
    for right, wrong in MISTAKES.items():
        text = params.read_text()
        assert text.count(right) == 1
        params.write_text(text.replace(right, wrong))
    hashes, before = copy.hashes(), copy.times()
    for name in STAGES:
        done = copy.stage(name, check=False)
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith(f"{name}: error: params.yaml: ")
        assert done.stderr.count("\n") == 1
        for problem in PROBLEMS:
            assert problem in done.stderr
        assert done.stdout == ""
    assert copy.hashes() == hashes
    assert copy.times() == before
    assert copy.git_status() == " M params.yaml\n"
