"""Git, as a command. Its own variables, such as GIT_DIR, are the caller's."""

import subprocess
from collections.abc import Mapping
from pathlib import Path


def run_git(*arguments: str, root: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Return Git's output; raise an OSError or a CalledProcessError if it fails."""
    command = ["git", *arguments]
    return subprocess.run(
        command, cwd=root, env=env, capture_output=True, check=True, encoding="utf-8"
    ).stdout


def git(*arguments: str) -> str | None:
    """Return Git's output, stripped; None if it fails or is not installed."""
    try:
        return run_git(*arguments).strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def read_blob(commit: str, path: Path, root: Path | None = None) -> bytes | None:
    """Return a file of a commit, relative to `root` or the current folder; None if missing."""
    # Not by DVC's GitFileSystem: pygit2 (1.21) deadlocks in a file of 20 MB.
    show = ["git", "cat-file", "blob", f"{commit}:./{path.as_posix()}"]
    done = subprocess.run(show, cwd=root, capture_output=True, check=False)
    return None if done.returncode else done.stdout
