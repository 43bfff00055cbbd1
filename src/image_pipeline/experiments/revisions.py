"""Git revisions, and the workspace, read through one interface."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from image_pipeline.common.errors import PipelineError, one_line
from image_pipeline.common.git import git, read_blob

WORKSPACE = "workspace"  # DVC's name for it
PROJECT_FILE = Path("dvc.yaml")
SHORT = 7  # digits of an abbreviated hash


class RevisionError(PipelineError):
    """A revision or an option that is not valid here, or no Git repository."""

    exit_code = 2


@dataclass(frozen=True)
class Revision:
    """A commit, or the workspace.

    Attributes:
        name: as the user wrote it.
        commit: its full hash; None for the workspace.
    """

    name: str
    commit: str | None

    def __str__(self) -> str:
        if self.commit is None or self.commit.startswith(self.name):
            return one_line(self.name, 60)
        return f"{one_line(self.name, 60)} ({self.commit[:SHORT]})"

    def read(self, path: Path) -> bytes | None:
        """Return the content of a file, relative to the project's root; None if it is missing."""
        if self.commit is None:
            try:
                return path.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return read_blob(self.commit, path)


def repository_root() -> Path:
    """Return the root of the Git repository, which may be above the project's root.

    Raises:
        RevisionError: the current folder is not a project's root or not in a Git repository,
            or Git is not installed.
    """
    if not PROJECT_FILE.is_file():
        raise RevisionError(f"{Path.cwd()}: no {PROJECT_FILE} here; run from the root of a project")
    root = git("rev-parse", "--show-toplevel")
    if root is None:
        raise RevisionError(
            f"{Path.cwd()}: not in a Git repository, or Git is not installed; run from a clone of "
            "the project"
        )
    return Path(root)


def resolve(name: str) -> Revision:
    """Resolve a name as DVC does: by Git, then among experiments and remote branches.

    DVC, whose import takes half a second, is imported only if Git does not know the name.

    Args:
        name: a commit, branch, tag or experiment, or `workspace`.

    Raises:
        RevisionError: there is no such revision, or several experiments have this name.
    """
    if name == WORKSPACE:
        return Revision(name, None)
    commit = git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    return Revision(name, commit or _resolve_by_dvc(name))


def experiments() -> dict[str, Revision]:
    """Return DVC's experiments of all commits, by name; the last in Git's order if names repeat."""
    lines = git("for-each-ref", "--format=%(objectname) %(refname)", "refs/exps") or ""
    found = (line.split(" ", 1) for line in lines.splitlines())
    refs = [(commit, ref.split("/")) for commit, ref in found]
    # refs/exps/<two digits>/<the other 38>/<name>; DVC's other refs have other forms.
    return {ref[4]: Revision(ref[4], commit) for commit, ref in refs if len(ref) == 5 and ref[3]}


def _resolve_by_dvc(name: str) -> str:
    from dvc.scm import SCM, RevError, resolve_rev  # type: ignore[import-untyped]

    with closing(SCM(".")) as scm:  # otherwise dulwich warns of open files at exit
        try:
            commit: str = resolve_rev(scm, name)
        except RevError as error:
            raise RevisionError(
                f"{one_line(error)}; `git log --oneline --all` lists commits, "
                "`dvc exp list --all-commits` experiments"
            ) from None
    return commit
