"""What Git has at a revision, and what lies in the workspace, read alike."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from image_pipeline.common.errors import PipelineError, one_line

if TYPE_CHECKING:
    from dvc.scm import Git  # type: ignore[import-untyped]

WORKSPACE = "workspace"  # DVC's name for it
PROJECT_FILE = Path("dvc.yaml")
SHORT = 7  # digits of a commit


class RevisionError(PipelineError):
    """A revision that there is not, or a folder that has none."""

    exit_code = 2


@dataclass(frozen=True)
class Revision:
    """A commit, or the workspace.

    Attributes:
        name: as the user wrote it.
        commit: its 40 digits; None for the workspace.
    """

    name: str
    commit: str | None

    def __str__(self) -> str:
        if self.commit is None or self.commit.startswith(self.name):
            return one_line(self.name, 60)
        return f"{one_line(self.name, 60)} ({self.commit[:SHORT]})"

    def read(self, path: Path) -> bytes | None:
        """Return the content of a file, from the project's root on; None if there is none."""
        if self.commit is None:
            try:
                return path.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None
        # Not by DVC's GitFileSystem: in a file of 20 MB its pygit2 (1.21) waits for itself forever.
        show = ["git", "cat-file", "blob", f"{self.commit}:./{path.as_posix()}"]
        done = subprocess.run(show, capture_output=True, check=False)
        return None if done.returncode else done.stdout


@contextmanager
def repository() -> Iterator["Git"]:
    """Open the Git repository around the project, whose root must be the current folder.

    Raises:
        RevisionError: the current folder is no project's root, or is in no Git repository.
    """
    if not PROJECT_FILE.is_file():
        raise RevisionError(f"{Path.cwd()}: no {PROJECT_FILE} here; run from the root of a project")
    from dvc.scm import SCM, SCMError

    try:
        scm = SCM(".")
    except SCMError as error:
        raise RevisionError(
            f"{Path.cwd()}: {one_line(error)}; run from a clone that Git knows"
        ) from None
    try:
        yield scm
    finally:
        scm.close()  # dulwich complains where the interpreter closes its files


def resolve(scm: "Git", name: str) -> Revision:
    """Return the revision that a name stands for, by DVC's own rules.

    Args:
        scm: the repository.
        name: a commit, branch, tag or experiment, or `workspace`.

    Raises:
        RevisionError: it stands for nothing, or for several experiments.
    """
    from dvc.scm import RevError, resolve_rev

    if name == WORKSPACE:
        return Revision(name, None)
    try:
        return Revision(name, resolve_rev(scm, name))
    except RevError as error:
        raise RevisionError(
            f"{one_line(error)}; `git log --oneline --all` lists commits, "
            "`dvc exp list --all-commits` experiments"
        ) from None
