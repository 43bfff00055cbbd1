"""A commit in a temporary folder, run with nothing shared but the Python environment."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType

from image_pipeline.common.errors import PipelineError, one_line

CLONE = "clone"
MIRROR = "DATASET_MIRROR"
SHUTDOWN_TIMEOUT = 10  # seconds from SIGINT to SIGKILL


class CheckoutError(PipelineError):
    """Git cannot check the commit out."""


@contextmanager
def clean_checkout(repository: Path, commit: str) -> Iterator[Path]:
    """Yield a temporary folder that holds a clone, CLONE, of a commit; it is deleted on exit.

    Args:
        repository: the root of the Git repository, which may be a shallow clone.
        commit: its full hash; it need not be on a branch.

    Raises:
        CheckoutError: with Git's message.
    """
    old_sigterm = signal.signal(signal.SIGTERM, _interrupt)  # so that the folder is deleted
    folder = Path(tempfile.mkdtemp(prefix="verify-"))
    try:
        clone = folder / CLONE
        _git("init", "--quiet", str(clone))
        serve = "git -c uploadpack.allowAnySHA1InWant=true upload-pack"
        fetch = ("fetch", "--quiet", "--depth=1", "--upload-pack", serve)
        _git("-C", str(clone), *fetch, str(repository.resolve()), commit)
        _git("-C", str(clone), "checkout", "--quiet", "--detach", "FETCH_HEAD")
        yield folder
    finally:
        old_sigint = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one changes nothing
        shutil.rmtree(folder, ignore_errors=True)
        signal.signal(signal.SIGINT, old_sigint)
        signal.signal(signal.SIGTERM, old_sigterm)


def run_stages(root: Path, folder: Path, stage: str | None) -> int:
    """Run all stages of a cloned project, or those up to one; return the exit status.

    Their output goes to standard error. Ctrl-C ends DVC and the stage it is running.

    Args:
        root: of the project.
        folder: for temporary files and DVC's caches, which start empty, so that no cached file can
            pass for an output.
        stage: the last one to run; None for all.
    """
    command = [sys.executable, "-m", "dvc", "repro", "--force", "--no-run-cache", "--no-commit"]
    config = root / ".dvc" / "config.local"
    config.write_text(f"[cache]\n    dir = {folder / 'cache'}\n", encoding="utf-8")
    process = subprocess.Popen(
        [*command, *([stage] if stage else [])],
        cwd=root,
        env=environment(root, folder),
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        start_new_session=True,  # so that its whole process group can be killed
    )
    try:
        return process.wait()
    except BaseException:
        old_sigint = signal.signal(signal.SIGINT, signal.SIG_IGN)
        _terminate(process)
        signal.signal(signal.SIGINT, old_sigint)
        raise


def mismatched_packages(root: Path) -> list[str]:
    """List installed packages whose version is not the one that a project's lock file pins."""
    lock = root / "requirements.lock"
    text = lock.read_text(encoding="utf-8") if lock.is_file() else ""
    found = []
    for name, pinned in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+) *\\?$", text, re.MULTILINE):
        try:
            installed = version(name)
        except PackageNotFoundError:
            continue  # for another operating system
        if installed != pinned:
            found.append(f"{name} {installed} instead of {pinned}")
    return found


def environment(root: Path, folder: Path) -> Mapping[str, str]:
    """Return environment variables with which a clone's own modules, and no caches, are found."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "GIT_"))}
    python = Path(sys.executable).parent
    env["PATH"] = os.pathsep.join([str(python), env.get("PATH", "")])
    env["PYTHONPATH"] = str(root / "src")
    env["DVC_SITE_CACHE_DIR"] = str(folder / "site")
    env["TMPDIR"] = str(folder)
    mirror = env.get(MIRROR)
    if mirror and "://" not in mirror:
        env[MIRROR] = str(Path(mirror).expanduser().resolve())
    return env


def _terminate(process: "subprocess.Popen[bytes]") -> None:
    """Interrupt DVC and its stage, which then clean up; kill them if that takes too long."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(SHUTDOWN_TIMEOUT)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _git(*arguments: str) -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    done = subprocess.run(
        ["git", *arguments], env=env, capture_output=True, check=False, encoding="utf-8"
    )
    if done.returncode:
        raise CheckoutError(f"git {arguments[0]}: {one_line(done.stderr)}; run `git fsck`")
