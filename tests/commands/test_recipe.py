"""A recipe's settings in params.yaml: blocks of options are replaced, comments are kept."""

from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides  # type: ignore[import-untyped]
from ruamel.yaml import YAML

from image_pipeline.commands.recipe import RECIPES, read_recipe, with_recipe
from image_pipeline.common.params import check_params
from image_pipeline.experiments.changes import flatten
from image_pipeline.experiments.dvc_runner import param_overrides
from image_pipeline.experiments.search_spaces import SPACES, read_space, to_study
from project import ROOT

PARAMS = ROOT / "params.yaml"


@pytest.fixture(autouse=True)
def _in_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_recipes_in_turn_replace_blocks_of_options() -> None:
    text = PARAMS.read_text()
    for name in ("best", "plain", "resnet", "best"):  # with one_cycle options, without, with
        recipe = read_recipe(name)
        text = with_recipe(text, recipe)
        params = YAML(typ="safe").load(text)
        assert params["train"] == recipe["train"]
        check_params(params, RECIPES.path(name))
    assert "# the highest of the schedule; above 0, to 10" in text


def test_a_recipe_for_photographs_sets_their_size_and_leaves_their_path() -> None:
    text = PARAMS.read_text().replace("path: images/README.md", "path: mine.zip")
    text = text.replace("test_fraction: 0.2", "test_fraction: 0.3")
    params = YAML(typ="safe").load(with_recipe(text, read_recipe("photographs")))
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
    assert params["train"]["transfer"] == {"name": "frozen"}


def test_options_of_a_loss_replace_those_of_another() -> None:
    recipe = read_recipe("best")
    recipe["train"]["loss"] = {"name": "focal", "focal": {"gamma": 3.0}}
    params = YAML(typ="safe").load(with_recipe(PARAMS.read_text(), recipe))
    assert params["train"]["loss"] == recipe["train"]["loss"]
    check_params(params, PARAMS)


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
