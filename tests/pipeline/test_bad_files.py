"""A stage that meets a bad file: one line that says so, status 1, the last outputs as they were.

What each reader refuses is tested beside it; here, that every stage passes it on.
"""

import gzip
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from image_pipeline.datasets.digits import FILE
from project import OUTPUT_FOLDERS, Project, require

Damage = Callable[[Path], object]
ROOT_USER = os.name == "posix" and os.geteuid() == 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project in which every stage has run."""
    project = Project(tmp_path_factory.mktemp("finished") / "project")
    for name in ("download", "tensorize", "train", "evaluate", "plot"):
        project.stage(name)
    return project


@pytest.fixture
def done(finished: Project) -> Project:
    """Return the finished project, its outputs as they were after the run."""
    kept = finished.root.parent / "kept"
    if not kept.exists():
        for name in OUTPUT_FOLDERS:
            shutil.copytree(finished.root / name, kept / name)
    for name in OUTPUT_FOLDERS:
        shutil.rmtree(finished.root / name)
        shutil.copytree(kept / name, finished.root / name)
    return finished


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def make_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def dangle(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def rewrite(path: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    """Change a safetensors file's tensors and keep its metadata."""
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata)


def other_shape(path: Path) -> None:
    rewrite(path, lambda split: split.update(images=split["images"][:, :, :27].copy()))


def other_dtype(path: Path) -> None:
    rewrite(path, lambda split: split.update(images=split["images"].astype(np.float32)))


def not_a_number(path: Path) -> None:
    rewrite(path, lambda weights: weights["hidden.0.weight"].fill(np.nan))


def swap_text(old: bytes, new: bytes) -> Damage:
    def damage(path: Path) -> None:
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new, 1))

    return damage


def shorten(path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


RAW = f"data/raw/{FILE}"
TRAIN, VALIDATION, TEST = (
    f"data/tensors/{name}.safetensors" for name in ("train", "validation", "test")
)
MODEL = "models/model.safetensors"
TABLES = ("plots/predictions.csv", "plots/classes.csv", "plots/reliability.csv")
TORN = "it is no valid safetensors file ("
CASES: list[tuple[str, str, Damage, str, str]] = [
    # stage, file, damage, cause, the stage to run anew
    ("tensorize", RAW, truncate, "not a whole gzip file (", "--force download"),
    ("tensorize", RAW, make_a_folder, "cannot be read (Is a directory)", "--force download"),
    (
        "tensorize",
        RAW,
        lambda path: path.write_bytes(gzip.compress(bytes(100 << 20), 1)),
        "not scikit-learn's digits (another SHA-256)",
        "--force download",
    ),
    ("train", TRAIN, truncate, TORN, "--force tensorize"),
    ("train", TRAIN, other_shape, f"{VALIDATION}: images of shape (1, 28, 28), the model", ""),
    ("train", VALIDATION, other_shape, "images of shape (1, 27, 28), the model takes", ""),
    ("train", VALIDATION, dangle, "not found", "tensorize"),
    ("evaluate", TEST, other_dtype, "`images` is F32 ", "--force tensorize"),
    ("evaluate", TEST, other_shape, "images of shape (1, 27, 28), the model takes", ""),
    ("evaluate", MODEL, empty, TORN, "--force train"),
    ("evaluate", MODEL, not_a_number, "`hidden.0.weight` is not float32 and", "--force train"),
    ("plot", MODEL, not_a_number, "its first layer is not float32 and fin", "--force train"),
    ("plot", TRAIN, other_shape, "images of shape (1, 27, 28), the model takes", ""),
    ("plot", TEST, make_a_folder, "cannot be read (it is a folder)", "--force tensorize"),
    ("plot", TABLES[0], shorten, " rows for the 360 images of data/tens", "--force evaluate"),
    ("plot", TABLES[0], swap_text(b"actual", b"truth"), "no column actual", "--force evaluate"),
    ("plot", TABLES[1], swap_text(b"\n0,", b"\ncat,"), "its classes are not", "--force evaluate"),
    ("plot", TABLES[2], swap_text(b"0.", b"zero"), "must be numbers from 0", "--force evaluate"),
]


def files(project: Project) -> dict[str, bytes | None]:
    """Return what is in the output folders: contents, and None for what is no file."""
    return {
        path.relative_to(project.root).as_posix(): path.read_bytes() if path.is_file() else None
        for folder in OUTPUT_FOLDERS
        for path in sorted((project.root / folder).rglob("*"))
    }


@pytest.mark.parametrize(
    ("stage", "name", "damage", "cause", "remedy"),
    CASES,
    ids=[f"{stage}-{Path(name).stem}-{number}" for number, (stage, name, *_) in enumerate(CASES)],
)
def test_a_bad_file_ends_the_stage_in_one_line(
    stage: str, name: str, damage: Damage, cause: str, remedy: str, done: Project
) -> None:
    damage(done.root / name)
    before = files(done)
    ended = done.stage(stage, check=False)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.strip().count("\n") == 0
    assert ended.stderr.strip().startswith(f"{stage}: error: ")
    assert cause in ended.stderr
    assert (name in ended.stderr) or name == TRAIN
    assert f"`dvc repro {remedy}".rstrip() in ended.stderr
    assert files(done) == before


@pytest.mark.parametrize(
    ("stage", "name"),
    [("tensorize", RAW), ("train", TRAIN), ("evaluate", MODEL), ("plot", TABLES[0])],
)
def test_a_file_without_permission_is_named(stage: str, name: str, done: Project) -> None:
    # Root may read everything, unless it gives up these two rights.
    bound = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if ROOT_USER else ()
    require(os.name == "posix" and (not bound or shutil.which("setpriv")), "a user bound by modes")
    path = done.root / name
    path.chmod(0)
    before = files_that_can_be_read(done)
    ended = done.stage(stage, prefix=bound, check=False)
    assert ended.returncode == 1
    assert ended.stderr.strip().count("\n") == 0
    assert f"{name}: cannot be read (" in ended.stderr
    assert files_that_can_be_read(done) == before


def files_that_can_be_read(project: Project) -> dict[str, bytes]:
    return {
        path.relative_to(project.root).as_posix(): path.read_bytes()
        for folder in OUTPUT_FOLDERS
        for path in sorted((project.root / folder).rglob("*"))
        if path.is_file() and os.access(path, os.R_OK)
    }


# Settings that are allowed each by itself, together.


@pytest.mark.parametrize(
    "params",
    [
        {"train.epochs": 5, "train.batch_size": 1_000_000},  # one step an epoch, one of warmup
        {"train.epochs": 1, "train.batch_size": 1_000_000, "train.warmup_fraction": 0.999999},
        {"train.epochs": 1, "train.warmup_fraction": 1e-300, "train.augmentation.group_size": 4096},
    ],
)
def test_extreme_settings_work_together(params: dict[str, object], done: Project) -> None:
    committed = (done.root / "params.yaml").read_text()
    try:
        done.set_params(params)
        done.stage("train")
        done.stage("evaluate")
        done.stage("plot")
    finally:
        (done.root / "params.yaml").write_text(committed)
