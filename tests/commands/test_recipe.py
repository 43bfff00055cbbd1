"""A recipe's settings in params.yaml: blocks of options are replaced, comments are kept."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from dvc.utils.hydra import apply_overrides  # type: ignore[import-untyped]
from ruamel.yaml import YAML

from experiments.experiment_projects import call
from image_pipeline.commands import recipe
from image_pipeline.commands.recipe import RECIPES, read_recipe, with_recipe
from image_pipeline.common.params import check_params, read_params
from image_pipeline.experiments.changes import flatten
from image_pipeline.experiments.dvc_runner import param_overrides
from image_pipeline.experiments.search_spaces import SPACES, read_space, to_study
from image_pipeline.tensors.tensor_files import DatasetInfo, Split
from image_pipeline.training.checkpoint import CheckpointFile
from image_pipeline.training.params import TrainParams
from image_pipeline.training.train import Trainer
from project import ROOT, Project

PARAMS = ROOT / "params.yaml"


@pytest.fixture(autouse=True)
def _in_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.slow
def test_every_recipe_takes_the_place_of_all_that_training_reads_and_trains(
    make_project: Callable[..., Project], tmp_path: Path
) -> None:
    """Each replaces the one before it."""
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (24, 1, 28, 28), np.uint8))
    few = Split(images, torch.arange(24) % 3, DatasetInfo("few", ("a", "b", "c"), (0.5,), (0.3,)))
    other = {
        "train.seed": 7,
        "train.optimizer": {"name": "SGD", "SGD": {"momentum": 0.5}},
        "train.loss": {"name": "focal", "focal": {"gamma": 3.0}},
        "train.model.cnn": {"filters": [2]},
    }
    text = (make_project(params=other).root / "params.yaml").read_text()
    names = RECIPES.names()
    assert {"best", "cnn_best", "cnn_quick", "plain", "quick_97_5", "quick_98_0"} <= set(names)
    for name in names:
        assert RECIPES.headline(name)
        expected = read_recipe(name)
        text = with_recipe(text, expected)
        found = YAML(typ="safe").load(text)
        assert found["train"] == expected["train"], name
        assert found["download"]["dataset"] == expected["download"]["dataset"]
        assert recipe._settings(text) == expected
        check_params(found, PARAMS)
        changes = {"epochs": 1, "batch_size": 16, "transfer": {"name": "none"}}  # no weights here
        short = TrainParams.model_validate(found["train"] | changes)
        trainer = Trainer(few, few, short, read_params(PARAMS).machine)
        list(trainer.train(CheckpointFile(tmp_path, name)))
        assert len(trainer.state.history) == 1
        assert trainer.unverified_ops == {}


def test_a_recipe_for_photographs_sets_their_size_and_leaves_their_path() -> None:
    text = PARAMS.read_text().replace("path: images/README.md", "path: mine.zip")
    text = text.replace("test_fraction: 0.2", "test_fraction: 0.3")
    text = with_recipe(text, read_recipe("photographs"))
    params = YAML(typ="safe").load(text)
    check_params(params, PARAMS)
    assert params["train"] == read_recipe("photographs")["train"]
    assert "# the highest of the schedule; above 0, to 10" in text  # comments stay
    assert params["download"]["dataset"] == "folder"
    assert params["download"]["folder"]["path"] == "mine.zip"
    assert params["tensorize"]["folder"] == {
        "channels": 3,
        "image_size": 224,
        "fit": "crop",
        "crop_fraction": 1.0,
        "test_fraction": 0.3,
        "unreadable": "error",
    }


def test_overrides_of_nested_options_reach_params(tmp_path: Path) -> None:
    """DVC's `-S` takes what `search` passes to it."""
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS.read_text())
    edges = {}
    for name in SPACES.names():
        for key, distribution in read_space(name).distributions.items():
            choices = getattr(distribution, "choices", None)
            edges[key] = choices[-1] if choices else getattr(distribution, "high", None)
    assert "train.loss.cross_entropy.label_smoothing" in edges
    apply_overrides(path, param_overrides(edges))
    params = YAML(typ="safe").load(path)
    check_params(params, path)
    assert {key: to_study(flatten(params)[key]) for key in edges} == edges


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("recipes") / "project", {})


@pytest.mark.parametrize("text", ["", "[]", "train: 1", "download: []\ntrain: {}"])
def test_params_that_git_has_may_be_anything(
    text: str, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.root)
    path = project.root / "params.yaml"
    committed = path.read_text()
    path.write_text(text)
    project.commit("other params")
    assert not recipe._has_unsaved_settings(text)
    changed = committed.replace("learning_rate: 8.0e-3", "learning_rate: 7.0e-3")
    assert recipe._has_unsaved_settings(changed)
    path.write_text(committed)


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("bset", "", "", "there is no recipe `bset` in "),
        ("best", "  epochs: 400\n", "", "recipes/best.yaml: train.epochs: missing; add it"),
        ("best", "train:", "train: [", "recipes/best.yaml: not valid YAML: "),
        ("best", "train:", "plot: {}\ntrain:", "best.yaml: its blocks must be download and ten"),
        ("best", "  dataset", "  data", "best.yaml: download: its keys must be dataset\n"),
        ("best", "    Adam:", "    Adamm:", "best.yaml: train.optimizer.Adamm: unknown key; rem"),
        ("best", "    one_cycle:", "    cycle:", "train.lr_schedule.cycle: unknown key; remove "),
    ],
)
def test_recipes_that_cannot_be_run(
    name: str, old: str, new: str, said: str, project: Project
) -> None:
    path = project.root / "recipes" / "best.yaml"
    path.write_text((ROOT / "recipes" / "best.yaml").read_text().replace(old, new, 1))
    before = (project.root / "params.yaml").read_bytes()
    done = call(project, "recipe", name, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("recipe: error: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert (project.root / "params.yaml").read_bytes() == before
