"""A commit cloned aside, and run there: with nothing of this clone's but the Python environment."""

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
PATIENCE = 10  # seconds that a run has to end itself when it is told to


class CloneError(PipelineError):
    """A commit that Git cannot put elsewhere."""


@contextmanager
def cloned(repository: Path, commit: str) -> Iterator[Path]:
    """Clone a commit into a temporary folder, as CLONE; the folder is gone when the block ends.

    Args:
        repository: the root of the Git repository; a shallow clone will do.
        commit: its 40 digits; no branch needs to have it.

    Raises:
        CloneError: Git says no, in its words.
    """
    before = signal.signal(signal.SIGTERM, _terminated)  # then the folder must go, too
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
        at_ctrl_c = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one adds nothing
        shutil.rmtree(folder, ignore_errors=True)
        signal.signal(signal.SIGINT, at_ctrl_c)
        signal.signal(signal.SIGTERM, before)


def run_stages(root: Path, folder: Path, stage: str | None) -> int:
    """Run every stage of a cloned project, or those up to one; return the exit status.

    What they print goes to standard error. On Ctrl-C the run is ended, whatever it is at.

    Args:
        root: of the project.
        folder: for all that DVC and the stages keep elsewhere: DVC's caches, which are empty, so
            that nothing is taken for a result that did not come out, and temporary files.
        stage: the last one to run; None for all.
    """
    command = [sys.executable, "-m", "dvc", "repro", "--force", "--no-run-cache", "--no-commit"]
    settings = root / ".dvc" / "config.local"
    settings.write_text(f"[cache]\n    dir = {folder / 'cache'}\n", encoding="utf-8")
    process = subprocess.Popen(
        [*command, *([stage] if stage else [])],
        cwd=root,
        env=environment(root, folder),
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        start_new_session=True,  # so that all it starts can be ended together
    )
    try:
        return process.wait()
    except BaseException:
        at_ctrl_c = signal.signal(signal.SIGINT, signal.SIG_IGN)
        _end(process)
        signal.signal(signal.SIGINT, at_ctrl_c)
        raise


def other_packages(root: Path) -> list[str]:
    """Return in words the packages installed here in another version than a project has pinned."""
    lock = root / "requirements.lock"
    text = lock.read_text(encoding="utf-8") if lock.is_file() else ""
    found = []
    for name, pinned in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+) *\\?$", text, re.MULTILINE):
        try:
            installed = version(name)
        except PackageNotFoundError:
            continue  # of another system, or of development alone
        if installed != pinned:
            found.append(f"{name} {installed} instead of {pinned}")
    return found


def environment(root: Path, folder: Path) -> Mapping[str, str]:
    """Return the environment in which a cloned project's own modules are found, and no cache is."""
    found = {
        key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "GIT_"))
    }
    python = Path(sys.executable).parent
    found["PATH"] = os.pathsep.join([str(python), found.get("PATH", "")])
    found["PYTHONPATH"] = str(root / "src")
    found["DVC_SITE_CACHE_DIR"] = str(folder / "site")
    found["TMPDIR"] = str(folder)
    mirror = found.get(MIRROR)
    if mirror and "://" not in mirror:
        found[MIRROR] = str(Path(mirror).expanduser().resolve())
    return found


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a run and all that it started; DVC and the stage may end themselves first."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(PATIENCE)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _terminated(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _git(*arguments: str) -> None:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    done = subprocess.run(
        ["git", *arguments], env=clean, capture_output=True, check=False, encoding="utf-8"
    )
    if done.returncode:
        raise CloneError(f"git {arguments[0]}: {one_line(done.stderr)}; run `git fsck`")
