"""What Git has at a revision, and what lies in the workspace, read alike."""

import subprocess
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from image_pipeline.common.errors import PipelineError, one_line

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


def repository_root() -> Path:
    """Return the root of the Git repository around the project, at whose root this must run.

    Raises:
        RevisionError: the current folder is no project's root, or is in no Git repository,
            or Git is not installed.
    """
    if not PROJECT_FILE.is_file():
        raise RevisionError(f"{Path.cwd()}: no {PROJECT_FILE} here; run from the root of a project")
    root = git("rev-parse", "--show-toplevel")
    if root is None:
        raise RevisionError(
            f"{Path.cwd()}: in no Git repository, or Git is not installed; run from a clone of the "
            "project"
        )
    return Path(root)


def check_picture(path: Path | None) -> None:
    """Make sure that a picture can be written, before anything is read or run for it.

    Raises:
        RevisionError: it is no PNG, or its folder does not exist.
    """
    if path and (path.suffix.lower() != ".png" or not path.parent.is_dir()):
        raise RevisionError(f"{path}: not a file.png in a folder that exists; give another name")


def resolve(name: str) -> Revision:
    """Return the revision that a name stands for, by DVC's own rules.

    These are Git's first, and then the names of experiments and of branches of remotes. DVC is
    imported only where Git does not know the name: that takes half a second.

    Args:
        name: a commit, branch, tag or experiment, or `workspace`.

    Raises:
        RevisionError: it stands for nothing, or for several experiments.
    """
    if name == WORKSPACE:
        return Revision(name, None)
    commit = git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    return Revision(name, commit or _resolved_by_dvc(name))


def experiments() -> dict[str, Revision]:
    """Return DVC's experiments of all commits, by name; of namesakes the last that Git lists."""
    lines = git("for-each-ref", "--format=%(objectname) %(refname)", "refs/exps") or ""
    found = (line.split(" ", 1) for line in lines.splitlines())
    refs = [(commit, ref.split("/")) for commit, ref in found]
    # refs/exps/<two digits>/<the other 38>/<name>; what DVC keeps besides is of another form.
    return {ref[4]: Revision(ref[4], commit) for commit, ref in refs if len(ref) == 5 and ref[3]}


def _resolved_by_dvc(name: str) -> str:
    from dvc.scm import SCM, RevError, resolve_rev  # type: ignore[import-untyped]

    with closing(SCM(".")) as scm:  # else dulwich complains when the interpreter closes its files
        try:
            commit: str = resolve_rev(scm, name)
        except RevError as error:
            raise RevisionError(
                f"{one_line(error)}; `git log --oneline --all` lists commits, "
                "`dvc exp list --all-commits` experiments"
            ) from None
    return commit


def git(*arguments: str) -> str | None:
    """Return what Git says; None where it fails, or is not installed."""
    command = ["git", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, check=False, encoding="utf-8")
    except OSError:
        return None
    return None if done.returncode else done.stdout.strip()
