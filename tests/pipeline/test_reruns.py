"""What reruns when a line of code is edited, as CONTRIBUTING.md says."""

import re

import pytest
from code_facts import stage_names
from dvc.repo import Repo  # type: ignore[import-untyped]

from project import ROOT, Project

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TABLE = PAGE.split("## What reruns when")[1].split("\n## ")[0]
ROWS = {
    path: set() if stages == "nothing" else set(stages.split(", "))
    for path, stages in re.findall(r"^\| `([^`]+)`[^|]*\| ([^|]+) \|$", TABLE, re.MULTILINE)
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a copy of this project as it was committed, without outputs."""
    project = Project(tmp_path_factory.mktemp("reruns") / "project", {})
    assert not stages_changed(project), "dvc.lock is not that of this code: run `make repro`"
    return project


def stages_changed_by(project: Project, path: str) -> set[str]:
    """Return the stages that `dvc status` says an edit of a file changes."""
    target = project.root / path
    file = min(target.rglob("[a-z]*.py")) if target.is_dir() else target
    content = file.read_bytes()
    file.write_bytes(content.replace(b'"""', b'"""Edited. ', 1) + b"# edited\n")
    try:
        return stages_changed(project)
    finally:
        file.write_bytes(content)


def stages_changed(project: Project) -> set[str]:
    return {
        stage.rpartition(":")[2]
        for stage, changes in Repo(str(project.root)).status().items()
        for change in changes
        if isinstance(change, dict)
        if "modified" in change.get("changed deps", {}).values()
    }


def test_the_table_has_every_room() -> None:
    rooms = {
        path.relative_to(ROOT).as_posix() + ("/" if path.is_dir() else "")
        for path in (ROOT / "src" / "image_pipeline").glob("[a-z]*")
    }
    by_file = {"datasets", "models", "augmentations"}  # of which only the chosen file counts
    named = {re.sub(rf"({'|'.join(by_file)})/.*", r"\1/", path) for path in ROWS}
    assert rooms <= named
    assert set().union(*ROWS.values()) == stage_names()


@pytest.mark.parametrize("path", ROWS)
def test_an_edit_reruns_what_the_table_says(path: str, project: Project) -> None:
    assert stages_changed_by(project, path) == ROWS[path]


def test_a_docstring_in_the_schema_of_train_reruns_what_reads_its_block(project: Project) -> None:
    path = "src/image_pipeline/training/params.py"
    assert stages_changed_by(project, path) == {"train", "weights"}
