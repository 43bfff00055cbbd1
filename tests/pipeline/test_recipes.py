"""The settings of `train:` that choose another way to compute: each runs and counts."""

import json
from collections.abc import Callable

import pandas as pd
import pytest
from ruamel.yaml import YAML

from project import ROOT, SMALL, Project

LEARNING = SMALL | {"train.epochs": 20, "train.batch_size": 32, "train.checkpoint_every": 0}


@pytest.fixture
def train(make_project: Callable[..., Project]) -> Callable[..., Project]:
    """Return a function that trains with changed params in a project of its own."""

    def run(name: str, **changes: object) -> Project:
        project = make_project(
            name, LEARNING | {f"train.{key}": value for key, value in changes.items()}
        )
        for stage in ("download", "tensorize", "train"):
            done = project.stage(stage)
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


@pytest.mark.parametrize("numerics", ["portable", "fast"])
@pytest.mark.parametrize("threads", [1, 3])
def test_numbers_of_threads(train: Callable[..., Project], numerics: str, threads: int) -> None:
    project = train("project", numerics=numerics, threads=threads, epochs=2)
    assert accuracy(project) > 0.2


def test_the_plain_recipe_is_another_run(train: Callable[..., Project]) -> None:
    tuned, plain = train("tuned", epochs=5), train("plain", epochs=5, recipe="plain")
    # What it settles is settled whatever the keys say; what it leaves open still counts.
    same = train("same", epochs=5, recipe="plain", learning_rate=1.0, label_smoothing=0.5)
    history = [pd.read_csv(p.root / "plots" / "history.csv") for p in (tuned, plain, same)]
    assert not history[0].equals(history[1])
    assert history[1].equals(history[2])
    assert len(history[1]) == 5
    assert accuracy(plain) > 0.2


@pytest.mark.parametrize("numerics", ["portable", "fast"])
@pytest.mark.parametrize("channels", [[4], [4, 8]])
def test_the_convolutional_network_learns(
    train: Callable[..., Project], numerics: str, channels: list[int]
) -> None:
    project = train("project", model="cnn", channels=channels, numerics=numerics, epochs=12)
    assert accuracy(project) > 0.9
    for stage in ("evaluate", "plot"):
        assert "WARNING" not in project.stage(stage).stderr
    metrics = json.loads((project.root / "metrics" / "test.json").read_text())
    assert metrics["accuracy"] > 0.85


def test_too_many_blocks_for_the_images(train: Callable[..., Project]) -> None:
    project = train("project", epochs=1)
    before = model(project)
    project.set_params({"train.model": "cnn", "train.channels": [8, 8, 8]})
    done = project.stage("train", check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "train: error: params.yaml: train.channels: 3 convolution blocks need images of at least "
        "29x29 pixels, these have 28x28; take 2 at most, or set train.model to mlp"
    )
    assert model(project) == before


def test_a_diverging_run_leaves_the_last_model(train: Callable[..., Project]) -> None:
    project = train("project", epochs=1)
    before = model(project)
    # Sixteen layers at the highest rate multiply up to what float32 has no number for.
    project.set_params(
        {
            "train.learning_rate": 10.0,
            "train.schedule": "constant",
            "train.hidden_sizes": [512] * 16,
            "train.batch_size": 256,
        }
    )
    done = project.stage("train", check=False)
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if "train: error: " in line]
    assert "the loss is " in line
    assert "of epoch 1; no model is written. Lower train.learning_rate (now 10.0)" in line
    assert "Traceback" not in done.stderr
    assert model(project) == before


@pytest.mark.parametrize("recipe", sorted(path.name for path in (ROOT / "recipes").iterdir()))
def test_a_recipe_is_run_as_the_readme_says(
    recipe: str, make_project: Callable[..., Project]
) -> None:
    command = f"dvc exp run $(cat recipes/{recipe})"
    assert command in (ROOT / "README.md").read_text()
    project = make_project("project", SMALL)
    project.run("sh", "-c", f"{command} -S train.epochs=2 -S train.batch_size=64")
    changed = YAML(typ="safe").load(project.root / "params.yaml")
    for argument in (ROOT / "recipes" / recipe).read_text().split():
        if argument == "-S":
            continue
        key, value = argument.split("=")
        if key not in ("train.epochs", "train.batch_size"):
            found = changed
            for part in key.split("."):
                found = found[part]
            assert found == YAML(typ="safe").load(value)
    assert len(pd.read_csv(project.root / "plots" / "history.csv")) == 2
