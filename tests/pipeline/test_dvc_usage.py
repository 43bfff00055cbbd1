"""DVC is used as its users expect: what is up to date is skipped, what ran before comes back."""

import csv
import json
import os
import re
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from declared_plots import CHARTS, PICTURES
from project import IDENTITY, ROOT, Project

DVC = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())
STAGES = list(DVC["stages"])
AFTER_TRAINING_CHANGED = ["train", "evaluate", "plot", "export"]  # the stages that then run again


def repro(project: Project, folder: Path) -> tuple[str, list[str]]:
    """Run `dvc repro`; return what it says, and the command lines of the `python` that it finds."""
    folder.mkdir()
    wrapper, log = folder / "python", folder / "log"
    wrapper.write_text(f'#!/bin/sh\necho "$*" >> "{log}"\nexec "{sys.executable}" "$@"\n')
    wrapper.chmod(0o755)
    log.touch()
    path = os.pathsep.join([str(folder), project.environment()["PATH"]])
    done = project.run("dvc", "repro", env={"PATH": path})
    return done.stdout, log.read_text().splitlines()


@pytest.fixture(scope="module")
def changed(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a copy of the finished project that then ran two epochs instead of three."""
    folder = tmp_path_factory.mktemp("changed")
    project = finished.copy_to(folder / "copy")
    project.set_params({"train.epochs": 2})
    _, commands = repro(project, folder / "traced")
    assert commands == [f"stages/{name}.py" for name in AFTER_TRAINING_CHANGED]
    return project


def test_settings_that_ran_before_come_back_without_running(
    finished: Project, changed: Project, tmp_path: Path
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
    said, commands = repro(again, tmp_path / "traced")
    assert commands == []
    for name in AFTER_TRAINING_CHANGED:
        assert f"Stage '{name}' is cached - skipping run, checking out outputs" in said
    assert again.hashes() == first
    assert again.git_status() == ""


def test_one_changed_setting_is_compared_with_the_last_commit(changed: Project) -> None:
    """What is drawn of it is in browser/test_plots_page.py."""
    table = changed.run("dvc", "metrics", "diff").stdout
    assert re.search(r"^metrics/train\.json +epochs +3 +2 +-1$", table, re.MULTILINE)
    params = json.loads(changed.run("dvc", "params", "diff", "--json").stdout)
    assert params == {"params.yaml": {"train.epochs": {"old": 3, "new": 2, "diff": -1}}}


def test_two_commits_of_a_plain_clone_are_compared(changed: Project, tmp_path: Path) -> None:
    committed = changed.copy_to(tmp_path / "committed")
    committed.commit("two epochs")
    clone = committed.clone_to(tmp_path / "clone")
    assert not (clone.root / ".dvc/cache").exists()
    assert not (clone.root / "models").exists()
    assert clone.run("dvc", "remote", "list").stdout == ""
    revisions = ("HEAD~1", "HEAD")

    metrics = json.loads(clone.run("dvc", "metrics", "diff", "--json", *revisions).stdout)
    assert "metrics/receipt.json" not in metrics  # which has hundreds of hashes
    changes = metrics["metrics/train.json"] | metrics["metrics/test.json"]
    assert (changes["epochs"]["old"], changes["epochs"]["new"]) == (3, 2)
    for key in ("validation.accuracy", "train.loss", "accuracy", "errors"):
        assert changes[key]["old"] != changes[key]["new"], key

    shown = json.loads(clone.run("dvc", "plots", "diff", "--json", *revisions).stdout)
    assert shown.get("errors", []) == []
    assert sorted(shown["data"]) == sorted([*CHARTS, *PICTURES])
    for name in CHARTS:
        found = {revision for plot in shown["data"][name] for revision in plot["revisions"]}
        assert found == {*revisions}
    done = clone.run("dvc", "plots", "diff", *revisions)
    assert "WARNING" not in done.stderr
    page = (clone.root / "dvc_plots/index.html").read_text(encoding="utf-8")
    for name in (f"{rev}_{picture.replace('/', '_')}" for rev in revisions for picture in PICTURES):
        assert f"static/{name}" in page
        assert (clone.root / "dvc_plots/static" / name).stat().st_size > 1000
    assert all(chart["title"] in page for chart in CHARTS.values())
    assert clone.git_status() == ""


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

    table = run("exp", "show", "--csv", "--hide-workspace")
    rows = {row["Experiment"]: row for row in csv.DictReader(table.splitlines())}
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


def test_help_says_what_a_stage_does(finished: Project) -> None:
    for name in STAGES:
        done = finished.run("python", f"stages/{name}.py", "--help")
        documented = (ROOT / "stages" / f"{name}.py").read_text().splitlines()[0].strip('"')
        assert done.stdout.startswith(f"usage: python stages/{name}.py [-h]\n\n{documented}")
        assert "params.yaml" in done.stdout
        assert done.stderr == ""
    assert finished.git_status() == ""


def test_a_stage_says_when_it_runs_elsewhere(finished: Project, tmp_path: Path) -> None:
    script = str(finished.root / "stages" / "train.py")
    done = finished.run("env", "-C", str(tmp_path), "python", script, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        f"train: error: params.yaml: not found in {tmp_path}; run from the project's root\n"
    )
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


MISTAKES = {"evaluate:": "evalaute:", "  epochs: 3 ": "  epochs: many "}
PROBLEMS = (
    "evalaute: unknown key",
    "evaluate: missing",
    "train.epochs: 'many' is not allowed: input should be a valid integer",
)


def test_every_stage_refuses_bad_params_before_it_touches_anything(
    finished: Project, tmp_path: Path
) -> None:
    copy = finished.copy_to(tmp_path / "copy")
    params = copy.root / "params.yaml"
    for right, wrong in MISTAKES.items():
        text = params.read_text()
        assert text.count(right) == 1
        params.write_text(text.replace(right, wrong))
    before = copy.times()
    for name in STAGES:
        done = copy.stage(name, check=False)
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith(f"{name}: error: params.yaml: ")
        assert done.stderr.count("\n") == 1
        for problem in PROBLEMS:
            assert problem in done.stderr
        assert done.stdout == ""
    assert copy.times() == before
    assert copy.git_status() == " M params.yaml\n"
