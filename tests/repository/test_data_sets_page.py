"""docs/data-sets.md: its example runs, its tables are whole, and what it names exists."""

import re
import subprocess
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import get_args

import numpy as np
import pytest
from ruamel.yaml import YAML

from image_pipeline import augmentations
from image_pipeline.augmenting import custom
from image_pipeline.common.errors import DataError
from image_pipeline.common.params import Params
from image_pipeline.datasets import DATASETS
from image_pipeline.datasets.emnist import CLASS_NAMES
from image_pipeline.tensorizing.params import TensorizeParams
from image_pipeline.tensorizing.tensorize import tensorize
from image_pipeline.tensors.tensor_files import read_split
from project import ROOT
from published import md5

PAGE = ROOT / "docs" / "data-sets.md"
TEXT = PAGE.read_text(encoding="utf-8")
EXAMPLE, *LINES, CHANGE = re.findall(r"^ *```python\n(.*?)^ *```$", TEXT, re.MULTILINE | re.DOTALL)
COUNTS = {"train": 20, "test": 6}


@pytest.fixture
def leaves(tmp_path: Path) -> ModuleType:
    """Return the page's module, with the page's line for the table of the data sets in a table."""
    path = tmp_path / "leaves.py"
    path.write_text(f"{EXAMPLE}\n\nTABLE = {{\n    {LINES[0].strip()}\n}}\n")
    spec = spec_from_file_location("leaves", path)
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def mirror(leaves: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the files that the module names, and let it know their MD5s."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part, count in COUNTS.items():
        images = rng.integers(0, 256, (count, *leaves.SHAPE), np.uint8)
        np.save(folder / f"{part}-images.npy", images)
        np.save(folder / f"{part}-labels.npy", np.arange(count, dtype=np.uint8) % 2)
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(leaves.MD5S)
    monkeypatch.setattr(leaves, "MD5S", {name: md5(folder / name) for name in names})
    return folder


def test_the_example_goes_from_a_mirror_into_tensors(
    leaves: ModuleType, mirror: Path, tmp_path: Path
) -> None:
    dataset = leaves.TABLE["leaves"](None)
    raw = tmp_path / "raw"
    dataset.fetch(raw, str(mirror))
    paths = [tmp_path / f"{name}.safetensors" for name in ("train", "validation", "test")]
    reports = [tmp_path / name for name in ("data.json", "class_balance.csv", "data.csv")]
    report = tensorize(dataset, "leaves", raw, 0.2, 0, *paths, *reports)
    assert report["images"] == {"train": 16, "validation": 4, "test": 6}
    test = read_split(paths[2])
    assert test.description.class_names == ("birch", "oak")
    assert test.shape == (3, 8, 8)
    assert np.array_equal(test.images.numpy(), np.load(mirror / "test-images.npy"))
    assert test.labels.tolist() == [0, 1, 0, 1, 0, 1]


def test_the_example_tells_what_is_wrong(leaves: ModuleType, mirror: Path) -> None:
    path = mirror / "test-labels.npy"
    np.save(path, np.full(6, 2, np.uint8))
    with pytest.raises(DataError, match=r"test-labels.npy: no labels 0 and 1; delete it"):
        leaves.Leaves().read(mirror)
    np.save(path, np.zeros(5, np.uint8))
    with pytest.raises(DataError, match=r"test-images.npy: no images of \(3, 8, 8\) that fit"):
        leaves.Leaves().read(mirror)
    path.write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"test-labels.npy: unusable \("):
        leaves.Leaves().read(mirror)
    path.unlink()
    with pytest.raises(DataError, match=r"test-labels.npy: unusable \(.*No such file"):
        leaves.Leaves().read(mirror)


def test_the_example_is_in_the_projects_style(leaves: ModuleType) -> None:
    assert leaves.__file__
    for command in (["format", "--check"], ["check"]):
        config = ["--config", str(ROOT / "pyproject.toml")]
        subprocess.run(["ruff", *command, *config, leaves.__file__], check=True)


def test_the_example_of_a_change_changes_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "brightness.py").write_text(CHANGE)
    monkeypatch.setattr(augmentations, "__path__", [str(tmp_path)])
    function = custom.load("brightness")
    images = np.full((5, 3, 4, 4), 100, np.float32)
    changed = custom.apply(function, images, (0, 1))
    assert changed.shape == images.shape
    assert 66 < changed.min() < changed.max() < 134
    assert len(np.unique(changed)) == 5
    assert np.array_equal(custom.apply(function, images, (0, 1)), changed)
    assert not np.array_equal(custom.apply(function, images, (0, 2)), changed)


def test_the_line_of_emnist_is_the_tables() -> None:
    table = (ROOT / "src" / "image_pipeline" / "datasets" / "__init__.py").read_text()
    assert LINES[1].strip() in table


def rows(header: str) -> list[str]:
    """Return the first cell of each row of the table with this first cell of its header."""
    table = TEXT.split(f"| {header} |")[1].split("\n\n")[0]
    return re.findall(r"^\| `([a-z0-9_]+)` \|", table, re.MULTILINE)


def test_its_tables_have_each_data_set_and_each_split() -> None:
    assert rows("`download.dataset`") == list(DATASETS)
    assert rows("`tensorize.emnist_split`") == list(CLASS_NAMES)
    assert tuple(CLASS_NAMES) == get_args(TensorizeParams.model_fields["emnist_split"].annotation)


@pytest.mark.parametrize(
    "page", ["README.md", "docs/data-sets.md", "docs/export.md", "docs/networks.md"]
)
def test_the_settings_it_shows_are_allowed(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The files that the pages show in whole, which are one's own to add.
    files = {"models": ["mlp", "cnn", "mixer"], "augmentations": ["none", "brightness"]}
    monkeypatch.setattr("image_pipeline.common.schema.names_in", files.__getitem__)
    shown = re.findall(r"-S ([a-z0-9_.]+)=([^\s`]+)", (ROOT / page).read_text(encoding="utf-8"))
    assert shown
    for key, value in shown:
        params = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        *blocks, name = key.split(".")
        block = params
        for part in blocks:
            block = block[part]
        assert name in block
        block[name] = YAML(typ="safe").load(value)
        Params.model_validate(params)


def test_every_file_it_links_exists() -> None:
    linked = re.findall(r"\]\(([^)#:]+)[^)]*\)", TEXT)
    assert len(linked) > 5
    assert all((PAGE.parent / name).exists() for name in linked)
