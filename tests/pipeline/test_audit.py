"""`python -m image_pipeline audit`, as a user runs it."""

import csv
import re
from pathlib import Path

from project import Project


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_whole_audit_of_digits(finished: Project, tmp_path: Path) -> None:
    project = finished.copy_to(tmp_path / "project")
    before = project.hashes()
    done = project.run("python", "-m", "image_pipeline", "audit", "--labels", "2")
    assert project.hashes() == before
    assert project.run("dvc", "status").stdout.startswith("Data and pipelines are up to date")
    assert project.git_status() == ""
    accuracy = r"test accuracy [\d.]+% on all 360 images, [\d.]+% without the \d+ of which"
    assert re.search(accuracy, done.stdout)
    folder = project.root / "audit"
    names = {path.name for path in folder.iterdir()}
    stems = ("near_duplicates", "image_issues", "label_issues")
    assert names == {f"{stem}.{suffix}" for stem in stems for suffix in ("csv", "png")}
    ranked = rows(folder / "label_issues.csv")
    assert sum(row["split"] == "test" for row in ranked) >= 100
    scores = [float(row["score"]) for row in ranked]
    assert scores == sorted(scores)
    found = {path: path.read_bytes() for path in folder.iterdir()}
    again = {"LOKY_MAX_CPU_COUNT": "1"}
    for kept in (project.root / "checkpoints").glob("audit-*"):
        kept.unlink()
    project.run("python", "-m", "image_pipeline", "audit", "--labels", "2", env=again)
    assert {path: path.read_bytes() for path in folder.iterdir()} == found


def test_mistakes_are_explained(project: Project) -> None:
    done = project.run("python", "-m", "image_pipeline", "audit", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("audit: error: data/tensors/train.safetensors: not found; run")
    done = project.run("python", "-m", "image_pipeline", "audit", "--labels", "1", check=False)
    assert done.returncode == 2
    assert done.stderr == "audit: error: --labels 1: give a number from 2 to 50\n"
