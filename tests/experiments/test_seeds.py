"""`seeds N` and `compare --seeds`: repeated runs, their summary, and settings paired by seed.

Real ones are in test_experiments_page.py; the queue that runs them is killed in test_search.py.
"""

import json
import re
import sys
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from experiments.experiment_projects import SyntheticProject, call, command_error, predictions
from image_pipeline.experiments.config_hash import config_hash
from image_pipeline.experiments.revisions import resolve
from image_pipeline.experiments.seed_runs import (
    experiment_name,
    paired_t_test,
    read_seed_runs,
    summarize,
)
from image_pipeline.experiments.seeds_report import format_paired, format_summary
from project import SMALL, Project

COMMAND = (sys.executable, "-m", "image_pipeline")


def test_summary_equals_scipy() -> None:
    rng = np.random.default_rng(0)
    for count in (2, 3, 10, 100):
        values = rng.normal(0.9, 0.01, count)
        found = summarize(values.tolist())
        error = stats.sem(values)
        assert found.interval == pytest.approx(
            stats.t.interval(0.95, count - 1, values.mean(), error), rel=1e-9
        )
        assert found.deviation == pytest.approx(np.std(values, ddof=1))
        assert (found.least, found.most) == (values.min(), values.max())


def test_intervals_stay_within_what_the_metric_can_be(repeated: SyntheticProject) -> None:
    """From two seeds, Student's t reaches nine standard deviations to each side."""
    path = repeated.root / "metrics/test.json"
    runs = {}
    for seed, errors in enumerate((10, 300)):
        accuracy = 1 - errors / 360
        values = {"accuracy": accuracy, "errors": errors, "images": 360, "loss": 0.1, "odd": errors}
        path.write_text(json.dumps(values))
        repeated.commit(f"seed {seed}")
        runs[seed] = resolve(repeated.run("git", "rev-parse", "HEAD").stdout.strip())
    found = read_seed_runs(runs)
    text = format_summary(found, "text")
    rows = {line.split()[0]: line for line in text.splitlines() if line}
    assert " 0.000% to 100.000% " in rows["accuracy"]
    assert " 0.0 to 360.0 " in rows["errors"]
    assert " 0.10000 to 0.10000 " in rows["loss"]
    assert " -1687.39969 to " in rows["odd"]  # nothing is known of it
    assert text.splitlines()[-1] == (
        "note: 2 seeds tell the mean to 9.0 standard deviations only (with 95% confidence); "
        "it is 0.9 with 7, 0.5 with 21"
    )
    assert "\n\n> 2 seeds tell the mean" in format_summary(found, "markdown")
    assert "seeds tell" not in format_summary(dict.fromkeys(range(7), found[0]), "text")

    paired = json.loads(format_paired("a", "b", found, {0: found[1], 1: found[0]}, "json"))
    intervals = {name: of["difference"]["interval"] for name, of in paired["metrics"].items()}
    assert intervals["accuracy"] == [-1, 1]
    assert intervals["errors"] == [-360, 360]
    assert format_paired("a", "b", found, found, "text").splitlines()[-1].startswith("note: 2 ")


def test_p_value_of_equal_differences() -> None:
    assert paired_t_test([0.0, 0.0]) == 1
    assert paired_t_test([0.5, 0.5]) == 0


def record_run(project: SyntheticProject, seed: int, wrong: int, **settings: Any) -> None:
    """Record a run with a seed as `seeds` does: as an experiment."""
    table, _ = predictions(wrong, 0)
    project.record(table, **settings, seed=seed)
    name = experiment_name(config_hash(resolve("HEAD")), seed)
    project.run("git", "update-ref", f"refs/exps/00/{'0' * 38}/{name}", "HEAD")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> SyntheticProject:
    """Return a project with two settings: `plain` under seeds 0 to 3, `longer` under 1 to 4."""
    project = SyntheticProject(tmp_path_factory.mktemp("seeds") / "project")
    with chdir(project.root):
        for seed, wrong in enumerate((50, 54, 49, 55)):
            record_run(project, seed, wrong)
        project.run("git", "branch", "plain")
        for seed, wrong in zip(range(1, 5), (44, 41, 45, 90), strict=True):
            record_run(project, seed, wrong, epochs=9)
        project.run("git", "branch", "longer")
    return project


@pytest.fixture
def repeated(
    recorded: SyntheticProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> SyntheticProject:
    """Return a copy of that project, in which the test runs."""
    project = recorded.copy_to(tmp_path / "project")
    monkeypatch.chdir(project.root)
    return project


def test_two_settings_are_paired_by_seed(repeated: SyntheticProject) -> None:
    done = call(repeated, "compare", "plain", "longer", "--seeds")
    assert "B is significantly better: B - A is +0.93 points over 3 seeds, " in done.stdout
    [row] = [line for line in done.stdout.splitlines() if line.startswith("errors ")]
    assert row.split()[1:4] == ["52.7", "43.3", "-9.3"]

    arguments = ("compare", "plain", "longer", "--seeds")
    values = json.loads(call(repeated, *arguments, "--json").stdout)
    assert values["seeds"] == [1, 2, 3]
    expected = stats.ttest_rel([44, 41, 45], [54, 49, 55])
    assert values["metrics"]["errors"]["p"] == pytest.approx(expected.pvalue)
    edges = expected.confidence_interval()
    assert values["metrics"]["errors"]["difference"]["interval"] == pytest.approx(list(edges))
    table = call(repeated, *arguments, "--markdown").stdout
    assert "\n| accuracy | 94.733% | 95.667% |" in table


def test_settings_that_cannot_be_compared(repeated: SyntheticProject) -> None:
    repeated.run("git", "branch", "none")
    repeated.record(predictions(10, 0)[0], epochs=1)
    for seed in (0, 1):
        record_run(repeated, seed, 10, epochs=5, test_hash=str(seed) * 32)
    for first, second, said in (
        ("HEAD~2", "plain", ") with 4, with fewer than two in common"),
        ("HEAD~2", "HEAD~2", "the same settings"),
        ("plain", "HEAD", "have different data"),
    ):
        assert said in command_error(repeated, "compare", first, second, "--seeds")


def test_config_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Project(tmp_path / "project")
    monkeypatch.chdir(project.root)
    key = config_hash(resolve("HEAD"))

    def now() -> str:
        return config_hash(resolve("workspace"))

    assert now() == key
    project.set_params({"train.seed": 9, "machine.cores": 1, "plot.dpi": 60})
    (project.root / "src/image_pipeline/plotting/new.py").write_text("# draws\n")
    (project.root / "README.md").write_text("other words\n")
    assert now() == key
    assert re.fullmatch(r"[0-9a-f]{8}", key)
    staged = project.run("git", "diff", "--cached", "--name-only").stdout
    assert staged == ""  # the user's own index is as it was

    project.set_params({"train.epochs": 4})
    assert now() != key
    project.set_params({"train.epochs": SMALL["train.epochs"]})
    assert now() == key
    (project.root / "src/image_pipeline/models/new.py").write_text("# a network\n")
    changed = now()
    assert changed != key
    project.commit("a new network")
    assert config_hash(resolve("HEAD")) == now() == changed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("1",), "1 seeds: give a number from 2 to 1000"),
        (("3", "--jobs", "4"), "--jobs 4: give a number from 1 to 3"),
        (("3", "--picture", "curves.jpg"), "curves.jpg: not a .png file"),
    ],
)
def test_wrong_arguments(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    assert command_error(Project.at(tmp_path), "seeds", *arguments, status=2).startswith(said)


@pytest.mark.slow
def test_failed_runs_are_named(finished: Project, tmp_path: Path) -> None:
    project = finished.copy_to(tmp_path / "project")
    project.set_params({"train.optimizer.name": "SGD", "train.optimizer.SGD": {"momentum": -1.0}})
    for _ in range(2):  # failed runs are retried
        done = project.run(*COMMAND, "seeds", "2", check=False, timeout=600)
        assert done.returncode == 1
        last = done.stderr.splitlines()[-1]
        assert last.startswith("seeds: error: 2 of 2 runs failed; `dvc queue logs seeds-")
    [command] = re.findall(r"`(dvc queue logs \S+)`", last)
    logs = project.run("sh", "-c", command).stdout
    assert "train: error: params.yaml: train.optimizer.SGD: " in logs
