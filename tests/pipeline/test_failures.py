"""What a stage cannot read or write, or not compute: one line that says so, and nothing is lost.

What each reader refuses is tested beside it; here, that every stage passes it on.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from kill_harness import outputs
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from image_pipeline.common.stage import RESTORE
from image_pipeline.datasets.digits import FILE
from project import Project, require, run

# Root may read everything, unless it gives up these two rights.
BOUND = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """Return a project with a committed whole run."""
    return finished.copy_to(tmp_path / "project")


def last_line(stderr: str) -> str:
    assert "Traceback" not in stderr
    return stderr.splitlines()[-1].replace("\x1b[K", "")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def garble(path: Path) -> None:
    path.write_bytes(b"{")


def dangle(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def forbid(path: Path) -> None:
    path.chmod(0)


def other_shape(path: Path) -> None:
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    save_file(tensors | {"images": tensors["images"][:, :, :27].copy()}, path, metadata)


def shorten(path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


TENSORS = "data/tensors"
PREDICTIONS = "plots/predictions.csv"
BAD_FILES: list[tuple[str, str, Callable[[Path], None], str, str]] = [
    # stage, file, damage, cause, the stage to run anew
    ("tensorize", f"data/raw/{FILE}", truncate, "not a valid gzip file (", "--force download"),
    ("train", f"{TENSORS}/validation.safetensors", dangle, "not found", "tensorize"),
    ("train", f"{TENSORS}/train.safetensors", forbid, "cannot be read (", ""),
    ("train", "data/weights/weights.json", garble, "not valid (", "--force weights"),
    (
        "evaluate",
        f"{TENSORS}/test.safetensors",
        other_shape,
        "images of shape (1, 27, 28), but",
        "",
    ),
    ("plot", PREDICTIONS, shorten, " rows for the 360 images of data/tens", "--force evaluate"),
]


@pytest.mark.parametrize(
    ("stage", "name", "damage", "cause", "remedy"),
    BAD_FILES,
    ids=[name for _, name, *_ in BAD_FILES],
)
def test_a_bad_file_ends_the_stage(
    stage: str,
    name: str,
    damage: Callable[[Path], None],
    cause: str,
    remedy: str,
    project: Project,
) -> None:
    require(not BOUND or shutil.which("setpriv"), "`setpriv`")
    damage(project.root / name)
    before = project.times()
    ended = project.stage(stage, prefix=BOUND, check=False)
    assert ended.returncode == 1
    assert ended.stdout == ""
    said = ended.stderr.strip()
    assert "\n" not in said
    assert said.startswith(f"{stage}: error: ")
    assert name in said
    assert cause in said
    assert f"`dvc repro {remedy}".rstrip() in said
    assert project.times() == before


def kept(project: Project, before: dict[str, str]) -> bool:
    """Whether all outputs are as before, but for what is written while training runs."""
    live = {"plots/curves.png", "plots/history.csv"}
    after = outputs(project)
    return (
        after.keys() == before.keys()
        and {name for name in after if after[name] != before[name]} <= live
    )


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """Mount something at `folder` while the block runs; skip where that is not allowed."""
    require(shutil.which("mount"), "`mount`")
    done = run("mount", *options, folder, check=False)
    require(done.returncode == 0, f"the right to mount ({' '.join(options)})")
    try:
        yield
    finally:
        run("umount", folder)


@pytest.mark.parametrize(
    ("stage", "folder"),
    [
        ("download", "data/raw"),
        ("tensorize", TENSORS),
        ("weights", "data/weights"),
        ("train", "models"),
        ("evaluate", "plots"),
        ("plot", "plots"),
        ("export", "models"),
    ],
)
def test_the_disk_is_full(stage: str, folder: str, project: Project) -> None:
    before, target = outputs(project), project.root / folder
    # A small disk over the folder, filled with the good outputs and then to its last byte.
    saved = {path.name: path.read_bytes() for path in target.iterdir()}
    with mounted(target, "-t", "tmpfs", "-o", "size=4m", "tmpfs"):
        for name, content in saved.items():
            (target / name).write_bytes(content)
        filler = target / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        done = project.stage(stage, check=False)
        filler.unlink()
        assert done.returncode == 1
        said = last_line(done.stderr)
        assert said.startswith(f"{stage}: error: {folder}/")
        assert said.endswith(
            ": No space left on device; free some space, then run `dvc repro` again"
        )
        assert kept(project, before)
    assert kept(project, before)


def test_the_folder_is_read_only(project: Project) -> None:
    before, target = outputs(project), project.root / "plots"
    with mounted(target, "--bind", str(target)):
        run("mount", "-o", "remount,bind,ro", target)
        done = project.stage("evaluate", check=False)
    assert done.returncode == 1
    said = last_line(done.stderr)
    assert said.startswith("evaluate: error: plots/")
    assert said.endswith(
        "Read-only file system; make the folder writable, then run `dvc repro` again"
    )
    assert outputs(project) == before


def test_a_limit_of_file_size_under_dvc_and_the_way_back(project: Project) -> None:
    before = outputs(project)
    project.set_params({"train.model.mlp.hidden_sizes": [300]})
    # In units of 1024 bytes: a model of 0.9 MB does not fit, everything else does.
    done = project.run("bash", "-c", "ulimit -f 600; exec dvc repro", check=False)
    project.run("git", "checkout", "--quiet", "params.yaml")
    assert done.returncode == 255
    assert "Traceback" not in done.stderr
    [said] = [line for line in done.stderr.splitlines() if line.startswith("train: error: ")]
    assert said.endswith(
        ": File too large; raise the file-size limit (`ulimit -f`), then run `dvc repro` again"
        + RESTORE
    )
    assert not (project.root / "models" / "model.safetensors").exists()  # that was DVC
    way_back = "git checkout dvc.lock metrics plots && dvc checkout"
    assert f"`{way_back}`" in RESTORE
    project.run("bash", "-c", way_back)
    assert outputs(project) == before
    assert project.git_status() == ""


DIVERGING = {
    "train.learning_rate": 10.0,
    "train.lr_schedule.name": "constant",
    "train.model.mlp.hidden_sizes": [128] * 16,
}
TOO_LARGE = {"train.model.mlp.hidden_sizes": [65536, 16384]}


@pytest.mark.parametrize(
    ("params", "problem", "remedy"),
    [
        (DIVERGING, "the loss is ", "no model is written. Lower train.learning_rate (now 10.0)"),
        (TOO_LARGE, "out of memory: ", "lower train.batch_size"),
    ],
)
def test_training_that_cannot_go_on(
    params: dict[str, object], problem: str, remedy: str, project: Project
) -> None:
    before = outputs(project)
    project.set_params(params)
    done = project.run("bash", "-c", "ulimit -v 4000000; exec python stages/train.py", check=False)
    assert done.returncode == 1
    said = last_line(done.stderr)
    assert said.startswith(f"train: error: {problem}")
    assert remedy in said
    assert kept(project, before)
