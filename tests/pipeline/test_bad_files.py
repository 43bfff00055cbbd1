"""A stage that meets a bad file: one line that says so, status 1, the last outputs as they were.

What each reader refuses is tested beside it; here, that every stage passes it on.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from kill_harness import Undisturbed
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from image_pipeline.datasets.digits import FILE
from project import OUTPUT_FOLDERS, Project, require

Damage = Callable[[Path], object]
ROOT_USER = os.name == "posix" and os.geteuid() == 0


@pytest.fixture
def done(undisturbed: tuple[Project, Undisturbed]) -> Project:
    """Return a finished project, its outputs as they were after the run."""
    finished, _ = undisturbed
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


def garble(path: Path) -> None:
    path.write_bytes(b"{")


def dangle(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def other_shape(path: Path) -> None:
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    save_file(tensors | {"images": tensors["images"][:, :, :27].copy()}, path, metadata)


def shorten(path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


RAW = f"data/raw/{FILE}"
TRAIN, VALIDATION, TEST = (
    f"data/tensors/{name}.safetensors" for name in ("train", "validation", "test")
)
PREDICTIONS = "plots/predictions.csv"
CASES: list[tuple[str, str, Damage, str, str]] = [
    # stage, file, damage, cause, the stage to run anew
    ("tensorize", RAW, truncate, "not a valid gzip file (", "--force download"),
    ("train", VALIDATION, dangle, "not found", "tensorize"),
    ("train", "data/weights/weights.json", garble, "not valid (", "--force weights"),
    ("evaluate", TEST, other_shape, "images of shape (1, 27, 28), but the model expects", ""),
    ("plot", PREDICTIONS, shorten, " rows for the 360 images of data/tens", "--force evaluate"),
]


def files(project: Project) -> dict[str, bytes | None]:
    """Return what is in the output folders: contents, and None for what is no file."""
    return {
        path.relative_to(project.root).as_posix(): path.read_bytes() if path.is_file() else None
        for folder in OUTPUT_FOLDERS
        for path in sorted((project.root / folder).rglob("*"))
    }


@pytest.mark.parametrize(
    ("stage", "name", "damage", "cause", "remedy"), CASES, ids=[name for _, name, *_ in CASES]
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
    assert name in ended.stderr
    assert f"`dvc repro {remedy}".rstrip() in ended.stderr
    assert files(done) == before


def test_a_file_without_permission_is_named(done: Project) -> None:
    stage, name = "train", TRAIN
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


def test_extreme_settings_work_together(done: Project) -> None:
    # One step an epoch, the first one of warmup; all images share one draw.
    done.set_params({"train.epochs": 5, "train.batch_size": 1_000_000})
    done.set_params({"train.augmentation.images_per_draw": 4096})
    for stage in ("train", "plot"):
        done.stage(stage)
