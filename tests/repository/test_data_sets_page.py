"""docs/data-sets.md: its example runs, its tables are whole, and what it names exists."""

import itertools
import re
import shlex
import shutil
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import get_args

import numpy as np
import pytest
from dvc.utils.hydra import apply_overrides  # type: ignore[import-untyped]
from PIL import Image
from ruamel.yaml import YAML

from image_pipeline import augmentations
from image_pipeline.augmenting import custom
from image_pipeline.common.errors import DataError
from image_pipeline.common.params import check_params, read_params
from image_pipeline.common.schema import names_in
from image_pipeline.datasets.emnist import CLASS_NAMES
from image_pipeline.tensorizing.params import TensorizeParams
from image_pipeline.tensors.tensor_files import read_split
from project import ROOT, code_blocks, run
from published import PARAMS, md5, tensorize_into
from refusals import said_by

PAGE = ROOT / "docs" / "data-sets.md"
TEXT = PAGE.read_text(encoding="utf-8")
TABLE, EXAMPLE, CHANGE = code_blocks(TEXT, "python")
COUNTS = {"train": 20, "test": 6}


@pytest.fixture
def leaves(tmp_path: Path) -> ModuleType:
    """Return the page's module."""
    (tmp_path / "leaves.py").write_text(EXAMPLE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        patch.delitem(sys.modules, "leaves", raising=False)
        return import_module("leaves")


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
    monkeypatch.setattr(leaves, "MD5S", {name: md5(folder / name) for name in leaves.MD5S})
    return folder


def test_the_example_goes_from_a_mirror_into_tensors(
    leaves: ModuleType, mirror: Path, tmp_path: Path
) -> None:
    raw = tmp_path / "raw"
    leaves.fetch(raw, str(mirror), PARAMS)
    paths, report = tensorize_into(tmp_path, leaves.read(raw, PARAMS), 0.2)
    assert report["images"] == {"train": 16, "validation": 4, "test": 6}
    test = read_split(paths[2])
    assert test.info.class_names == ("birch", "oak")
    assert test.shape == (3, 8, 8)
    assert np.array_equal(test.images.numpy(), np.load(mirror / "test-images.npy"))
    assert test.labels.tolist() == [0, 1, 0, 1, 0, 1]


def test_the_example_reports_bad_files(leaves: ModuleType, mirror: Path) -> None:
    path = mirror / "test-labels.npy"
    for labels, said in (
        (np.full(6, 2, np.uint8), "test-labels.npy: labels other than 0 and 1; delete it"),
        (np.zeros(5, np.uint8), "test-images.npy: no images of (3, 8, 8) that match"),
        (b"<html>", "test-labels.npy: not a valid npy file ("),
        (None, "test-labels.npy: not found; run"),
    ):
        path.unlink()
        if isinstance(labels, bytes):
            path.write_bytes(labels)
        elif labels is not None:
            np.save(path, labels)
        assert said in said_by(DataError, leaves.read, mirror, PARAMS)


def test_the_example_of_a_change_changes_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "invert.py").write_text(CHANGE)
    monkeypatch.setattr(augmentations, "__path__", [str(tmp_path)])
    function = custom.load("invert")
    images = np.full((500, 3, 4, 4), 100, np.float32)
    changed = custom.apply(function, images, (0, 1))
    negatives = (changed == 155).all(axis=(1, 2, 3))
    assert np.array_equal(changed[~negatives], images[~negatives])
    assert 25 < negatives.sum() < 75
    assert np.array_equal(custom.apply(function, images, (0, 1)), changed)
    assert not np.array_equal(custom.apply(function, images, (0, 2)), changed)


def test_the_lines_for_a_table_write_its_images(tmp_path: Path) -> None:
    labels, pixels = [3, 0, 3], np.random.default_rng(0).integers(0, 256, (3, 784), np.uint8)
    header = ",".join(["label", *(f"pixel{number}" for number in range(784))])
    table = np.column_stack([labels, pixels])
    np.savetxt(tmp_path / "train.csv", table, "%d", ",", header=header, comments="")
    run(sys.executable, "-c", TABLE, cwd=tmp_path)
    written = {
        path.relative_to(tmp_path).as_posix(): np.asarray(Image.open(path))
        for path in tmp_path.rglob("*.png")
    }
    assert sorted(written) == ["images/0/1.png", "images/3/0.png", "images/3/2.png"]
    for number, label in enumerate(labels):
        image = written[f"images/{label}/{number}.png"]
        assert np.array_equal(image, pixels[number].reshape(28, 28))


def test_the_quotes_it_shows_pass_on_any_path(tmp_path: Path) -> None:
    """By DVC's own reader of `-S`, after the shell's."""
    command = next(line for line in TEXT.splitlines() if "$HOME" in line and line.startswith("dvc"))
    for name in ("my pets (old), all", "a=b", "ü ß", "{x}[1]", "2024", "true", "1e3", 'c#h & "d"'):
        shown = command.replace("my pets (old), all", name.replace('"', '\\"'))
        words = shlex.split(shown.replace("$HOME/", ""))
        overrides = [word for before, word in itertools.pairwise(words) if before == "-S"]
        shutil.copy(ROOT / "params.yaml", tmp_path)
        apply_overrides(tmp_path / "params.yaml", overrides)
        download = read_params(tmp_path / "params.yaml").download
        assert (download.dataset, download.folder.path) == ("folder", name)


def rows(header: str) -> list[str]:
    """Return the first cell of each row of the table with this first cell of its header."""
    table = TEXT.split(f"| {header} |")[1].split("\n\n")[0]
    return re.findall(r"^\| `([a-z0-9_]+)` \|", table, re.MULTILINE)


def test_its_tables_have_each_data_set_and_each_split() -> None:
    files = (ROOT / "src/image_pipeline/datasets").glob("[a-z]*.py")
    assert sorted(rows("`download.dataset`")) == sorted(path.stem for path in files)
    assert rows("`tensorize.emnist_split`") == list(CLASS_NAMES)
    assert tuple(CLASS_NAMES) == get_args(TensorizeParams.model_fields["emnist_split"].annotation)


@pytest.mark.parametrize(
    "page", ["README.md", "docs/data-sets.md", "docs/export.md", "docs/networks.md"]
)
def test_the_settings_it_shows_are_allowed(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The files that the pages show and a user adds.
    added = {"models": ["mixer"], "augmentations": ["invert"]}
    monkeypatch.setattr(
        "image_pipeline.common.schema.names_in",
        lambda folder: names_in(folder) + added.get(folder, []),
    )
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
        check_params(params, ROOT / page)
