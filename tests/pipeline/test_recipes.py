"""The settings of `train:` that choose another way to compute: each runs and counts."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

from image_pipeline.commands import recipe
from image_pipeline.common.params import check_params, read_params
from image_pipeline.tensors.tensor_files import DatasetInfo, Split
from image_pipeline.training.checkpoint import CheckpointFile
from image_pipeline.training.params import TrainParams
from image_pipeline.training.train import Trainer
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


def model(project: Project) -> str:
    return project.hashes()["models/model.safetensors"]


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


# What makes a run of any recipe short.
SHORT = ("download.dataset=digits", "train.epochs=1", "train.batch_size=64")


def as_run(project: Project) -> dict[str, Any]:
    """Return the training settings of the last run, as DVC locked them."""
    locked = YAML(typ="safe").load(project.root / "dvc.lock")["stages"]["train"]["params"]
    settings: dict[str, Any] = locked["params.yaml"]["train"]
    return settings


def test_a_recipe_gives_the_same_whatever_ran_before(finished: Project, tmp_path: Path) -> None:
    """Two of them, and the first again, with changes left behind by what ran before."""
    project = finished.copy_to(tmp_path / "project")
    extra = [word for setting in SHORT for word in ("-S", setting)]
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
        assert as_run(project) == expected
        models.append(model(project))
    assert models[0] == models[-1] != models[1]
    assert "could not" not in project.run("dvc", "exp", "show").stderr

    assert "recipe: your changes to params.yaml are kept in params.yaml.bak" in done.stdout
    kept = YAML(typ="safe").load(project.root / "params.yaml.bak")
    assert (kept["train"]["seed"], kept["train"]["learning_rate"]) == (2, 0.00123)
    text = (project.root / "params.yaml").read_text()
    assert "# the highest of the schedule; above 0, to 10" in text  # comments stay
    assert "params.yaml.bak" not in project.git_status()


def test_every_recipe_trains_and_takes_the_place_of_all_that_training_reads(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (24, 1, 28, 28), np.uint8))
    few = Split(images, torch.arange(24) % 3, DatasetInfo("few", ("a", "b", "c"), (0.5,), (0.3,)))
    machine = read_params(ROOT / "params.yaml").machine
    before = YAML(typ="safe").load(ROOT / "params.yaml")
    before["train"] |= {"seed": 7, "optimizer": {"name": "SGD", "SGD": {"momentum": 0.5}}}
    before["train"]["model"]["cnn"] = {"filters": [2]}
    text = io.StringIO()
    YAML().dump(before, text)
    names = recipe.RECIPES.names()
    assert {"best", "cnn_best", "cnn_quick", "plain", "quick_97_5", "quick_98_0"} <= set(names)
    for name in names:
        assert recipe.RECIPES.headline(name)
        found = YAML(typ="safe").load(recipe.with_recipe(text.getvalue(), recipe.read_recipe(name)))
        check_params(found, ROOT / "params.yaml")
        expected = YAML(typ="safe").load(ROOT / "recipes" / f"{name}.yaml")
        assert found["train"] == expected["train"], name
        assert found["download"]["dataset"] == expected["download"]["dataset"]
        assert recipe._settings(recipe.with_recipe(text.getvalue(), expected)) == expected
        changes = {"epochs": 1, "batch_size": 16, "transfer": {"name": "none"}}  # no weights here
        short = TrainParams.model_validate(found["train"] | changes)
        trainer = Trainer(few, few, short, machine)
        list(trainer.train(CheckpointFile(tmp_path, name)))
        assert len(trainer.state.history) == 1
        assert trainer.unverified_ops == {}


@pytest.mark.parametrize("text", ["", "[]", "train: 1", "download: []\ntrain: {}"])
def test_params_that_git_has_may_be_anything(
    text: str, make_project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project("project", {})
    monkeypatch.chdir(project.root)
    committed = (project.root / "params.yaml").read_text()
    (project.root / "params.yaml").write_text(text)
    project.commit("other params")
    assert not recipe._has_unsaved_settings(text)
    assert recipe._has_unsaved_settings(
        committed.replace("learning_rate: 8.0e-3", "learning_rate: 7.0e-3")
    )


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("bset", ("", ""), "there is no recipe `bset` in "),
        ("best", ("  epochs: 400\n", ""), "recipes/best.yaml: train.epochs: missing; add it"),
        ("best", ("  epochs:", "  depth: 3\n  epochs:"), "best.yaml: train.depth: unknown key; "),
        ("best", ("  epochs: 400", "  epochs: many"), "best.yaml: train.epochs: 'many' is not al"),
        ("best", ("train:", "train: ["), "recipes/best.yaml: not valid YAML: "),
        ("best", ("train:", "plot: {}\ntrain:"), "best.yaml: its blocks must be download and ten"),
        ("best", ("  dataset", "  data"), "best.yaml: download: its keys must be dataset\n"),
        ("best", ("    Adam:", "    Adamm:"), "best.yaml: train.optimizer.Adamm: unknown key; rem"),
        (
            "best",
            ("    one_cycle:", "    cycle:"),
            "train.lr_schedule.cycle: unknown key; remove it",
        ),
    ],
)
def test_recipes_that_cannot_be_run(
    name: str, change: tuple[str, str], said: str, make_project: Callable[..., Project]
) -> None:
    project = make_project("project", {})
    path = project.root / "recipes" / "best.yaml"
    path.write_text(path.read_text().replace(*change, 1))
    before = (project.root / "params.yaml").read_bytes()
    done = project.run("python", "-m", "image_pipeline", "recipe", name, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("recipe: error: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert (project.root / "params.yaml").read_bytes() == before
