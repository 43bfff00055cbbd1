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

from image_pipeline.common.errors import PipelineError, one_line
from image_pipeline.common.git import run_git

CLONE = "clone"
MIRROR = "DATASET_MIRROR"
SHUTDOWN_TIMEOUT = 10  # seconds from SIGINT to SIGKILL


@contextmanager
def clean_checkout(repository: Path, commit: str) -> Iterator[Path]:
    """Yield a temporary folder that holds a clone, CLONE, of a commit; it is deleted on exit.

    Args:
        repository: the root of the Git repository, which may be a shallow clone.
        commit: its full hash; it need not be on a branch.

    Raises:
        PipelineError: with Git's message.
    """
    # By an exception, so that the folder is deleted.
    old_sigterm = signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="verify-"))
    try:
        clone = folder / CLONE
        serve = "git -c uploadpack.allowAnySHA1InWant=true upload-pack"
        fetch = ("fetch", "--quiet", "--depth=1", "--upload-pack", serve)
        try:
            env = _environment_without("GIT_")
            run_git("init", "--quiet", str(clone), env=env)
            run_git(*fetch, str(repository.resolve()), commit, root=clone, env=env)
            run_git("checkout", "--quiet", "--detach", "FETCH_HEAD", root=clone, env=env)
        except subprocess.CalledProcessError as error:
            raise PipelineError(
                f"git {error.cmd[1]}: {one_line(error.stderr)}; run `git fsck`"
            ) from None
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
    env = _environment_without("DVC_", "GIT_")
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


def _environment_without(*prefixes: str) -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith(prefixes)}
