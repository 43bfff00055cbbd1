"""A full disk, a read-only folder, too little memory, a diverged loss: one line, nothing lost."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from kill_harness import outputs

from project import Project, require, run

RESTORE = (
    " (DVC removed this stage's outputs before running it; "
    "`git checkout dvc.lock metrics plots && dvc checkout` brings the committed ones back)"
)
STAGES_THAT_WRITE = {
    "download": "data/raw",
    "tensorize": "data/tensors",
    "weights": "data/weights",
    "train": "models",
    "evaluate": "plots",
    "plot": "plots",
    "export": "models",
}


@pytest.fixture
def committed(finished: Project, tmp_path: Path) -> tuple[Project, dict[str, str]]:
    """A project with a committed whole run, and that run's outputs."""
    return finished.copy_to(tmp_path / "project"), outputs(finished)


def kept(project: Project, before: dict[str, str]) -> bool:
    """Whether all outputs are as before, but for what is written while training runs."""
    live = {"plots/curves.png", "plots/history.csv"}
    after = outputs(project)
    return (
        after.keys() == before.keys()
        and {name for name in after if after[name] != before[name]} <= live
    )


def last_line(stderr: str) -> str:
    assert "Traceback" not in stderr
    return stderr.splitlines()[-1].replace("\x1b[K", "")


def fill(path: Path) -> None:
    """Write to the disk's last byte."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


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


@pytest.mark.parametrize(("stage", "folder"), STAGES_THAT_WRITE.items())
def test_the_disk_is_full(
    committed: tuple[Project, dict[str, str]], stage: str, folder: str
) -> None:
    project, before = committed
    target = project.root / folder
    # A small disk over the folder, filled with the good outputs and then to its last byte.
    saved = {path.name: path.read_bytes() for path in target.iterdir()}
    with mounted(target, "-t", "tmpfs", "-o", "size=4m", "tmpfs"):
        for name, content in saved.items():
            (target / name).write_bytes(content)
        fill(target / "filler")
        done = project.stage(stage, check=False)
        (target / "filler").unlink()
        assert done.returncode == 1
        said = last_line(done.stderr)
        assert said.startswith(f"{stage}: error: {folder}/")
        assert said.endswith(
            ": No space left on device; free some space, then run `dvc repro` again"
        )
        assert kept(project, before)  # every one of them as it was
    assert kept(project, before)


def test_the_folder_is_read_only(committed: tuple[Project, dict[str, str]]) -> None:
    project, before = committed
    stage, folder = "evaluate", "plots"
    target = project.root / folder
    with mounted(target, "--bind", str(target)):
        run("mount", "-o", "remount,bind,ro", target)
        done = project.stage(stage, check=False)
    assert done.returncode == 1
    said = last_line(done.stderr)
    assert said.startswith(f"{stage}: error: {folder}/")
    assert said.endswith(
        "Read-only file system; make the folder writable, then run `dvc repro` again"
    )
    assert outputs(project) == before


def test_a_limit_of_file_size_under_dvc_and_the_way_back(
    committed: tuple[Project, dict[str, str]],
) -> None:
    project, before = committed
    project.set_params({"train.model.mlp.hidden_sizes": [300]})
    # In units of 1024 bytes: a model of 0.9 MB does not fit, everything else does.
    done = project.run("bash", "-c", "ulimit -f 600; exec dvc repro", check=False)
    project.run("git", "checkout", "--quiet", "params.yaml")
    assert done.returncode == 255
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("train: error: ")]
    assert len(lines) == 1
    assert lines[0].endswith(
        ": File too large; raise the file-size limit (`ulimit -f`), then run `dvc repro` again"
        + RESTORE
    )
    assert not (project.root / "models" / "model.safetensors").exists()  # that was DVC
    project.run("bash", "-c", "git checkout dvc.lock metrics plots && dvc checkout")
    assert outputs(project) == before
    assert project.git_status() == ""


@pytest.mark.parametrize(
    ("params", "said"),
    [
        (
            {
                "train.learning_rate": 10.0,
                "train.lr_schedule.name": "constant",
                "train.model.mlp.hidden_sizes": [128] * 16,
            },
            ("the loss is ", "no model is written. Lower train.learning_rate (now 10.0)"),
        ),
        (
            {"train.model.mlp.hidden_sizes": [65536, 16384]},
            ("out of memory: ", "lower train.batch_size"),
        ),
    ],
    ids=["divergence", "memory"],
)
def test_training_that_cannot_go_on(
    committed: tuple[Project, dict[str, str]], params: dict[str, object], said: tuple[str, str]
) -> None:
    project, before = committed
    project.set_params(params)
    require(os.name == "posix", "ulimit")
    done = project.run("bash", "-c", "ulimit -v 4000000; exec python stages/train.py", check=False)
    assert done.returncode == 1
    line = last_line(done.stderr)
    assert line.startswith(f"train: error: {said[0]}")
    assert said[1] in line
    assert kept(project, before)
