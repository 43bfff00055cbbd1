"""The settings of `train:` that choose another way to compute: each runs and counts."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from project import ROOT, Project


@pytest.fixture
def train(finished: Project, tmp_path: Path) -> Callable[..., Project]:
    """Return a function that trains with changed params of `train` in a copy of the project."""

    def run(name: str, **changes: object) -> Project:
        project = finished.copy_to(tmp_path / name)
        learning = {"epochs": 10, "batch_size": 32} | changes
        project.set_params({f"train.{key}": value for key, value in learning.items()})
        done = project.stage("train")
        assert "WARNING" not in done.stderr
        return project

    return run


def accuracy(project: Project) -> float:
    metrics = json.loads((project.root / "metrics" / "train.json").read_text())
    return float(metrics["validation"]["accuracy"])


def test_fast_is_as_accurate_as_portable(train: Callable[..., Project]) -> None:
    portable, fast = train("portable"), train("fast", numerics="fast")
    assert accuracy(portable) > 0.9
    assert abs(accuracy(fast) - accuracy(portable)) <= 0.03  # 4 of the 144 validation images


@pytest.mark.parametrize(
    ("name", "numerics", "options"),
    [("cnn", "portable", {}), ("resnet", "fast", {"model.resnet": {"filters": [16, 32]}})],
)
def test_the_other_networks_learn(
    train: Callable[..., Project], name: str, numerics: str, options: dict[str, object]
) -> None:
    project = train("project", numerics=numerics, epochs=4, **{"model.name": name}, **options)
    assert accuracy(project) > 0.9
    for stage in ("evaluate", "plot", "export"):
        assert "WARNING" not in project.stage(stage).stderr
    metrics = json.loads((project.root / "metrics" / "test.json").read_text())
    assert metrics["accuracy"] > 0.85


def test_a_recipe_gives_the_same_whatever_ran_before(finished: Project, tmp_path: Path) -> None:
    """Two of them, and the first again, with changes left behind by what ran before."""
    project = finished.copy_to(tmp_path / "project")
    short = ("download.dataset=digits", "train.epochs=1", "train.batch_size=64")
    extra = [word for setting in short for word in ("-S", setting)]
    models: list[str] = []
    for name in ("best", "cnn_quick", "best"):
        project.run("git", "checkout", "--quiet", "dvc.lock", "metrics", "plots")
        project.set_params({"train.seed": len(models), "train.learning_rate": 0.00123})
        project.set_params({"train.model.cnn.filters": [2]})
        done = project.run("python", "-m", "image_pipeline", "recipe", name, *extra)
        said = done.stdout.splitlines()[-1]
        assert said.startswith(f"recipe: {name} -S download.dataset=digits ")
        assert "final test accuracy " in said
        expected = YAML(typ="safe").load(ROOT / "recipes" / f"{name}.yaml")["train"]
        expected |= {"epochs": 1, "batch_size": 64}
        locked = YAML(typ="safe").load(project.root / "dvc.lock")["stages"]["train"]["params"]
        assert locked["params.yaml"]["train"] == expected
        models.append(project.hashes()["models/model.safetensors"])
    assert models[0] == models[-1] != models[1]
    assert "could not" not in project.run("dvc", "exp", "show").stderr

    assert "recipe: your changes to params.yaml are kept in params.yaml.bak" in done.stdout
    kept = YAML(typ="safe").load(project.root / "params.yaml.bak")
    assert (kept["train"]["seed"], kept["train"]["learning_rate"]) == (2, 0.00123)
    text = (project.root / "params.yaml").read_text()
    assert "# the highest of the schedule; above 0, to 10" in text  # comments stay
    assert "params.yaml.bak" not in project.git_status()


def test_extreme_settings_work_together(train: Callable[..., Project]) -> None:
    """One step an epoch, the first one of warmup; all images share one draw."""
    extreme = {"batch_size": 1_000_000, "augmentation.images_per_draw": 4096}
    train("project", epochs=5, **extreme).stage("plot")
