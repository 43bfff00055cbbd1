"""Kill `dvc repro` at random moments, finish it, and compare with a run that nobody disturbed.

`make soak` runs the long form; test_kills.py a short one. Needs Linux's /proc.
"""

import argparse
import json
import os
import random
import signal
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from background import BackgroundCommand
from project import OUTPUT_FOLDERS, SHARED_MNIST, SMALL, Project, wait_until

STAGES = ("download", "tensorize", "weights", "train", "evaluate", "plot", "export")
DVC_ITSELF = "dvc"  # as an aim: while DVC starts, before any stage
AIMS = (DVC_ITSELF, *STAGES)
AFTER = 1.2  # kills fall up to this share of a stage's duration: DVC's own work after it, too
SIGTERM_BIT = 1 << (signal.SIGTERM - 1)
WAITING = "train: another run of this stage is active in this folder; waiting for it to end"
MEND = "rm -f .dvc/tmp/rwlock && git checkout dvc.lock"  # as the README says


class Command(BackgroundCommand):
    """A command whose processes can be found and killed."""

    def __init__(self, project: Project, *command: str) -> None:
        super().__init__(project, *command, env={"SHELL": "/bin/sh"})

    def __enter__(self) -> "Command":
        return self

    def __exit__(self, *_: object) -> None:
        """Leave no process behind, whatever a test did."""
        self.signal(signal.SIGKILL)
        self.process.wait()
        wait_until(lambda: not self._members(), "the end of every process of the command")

    def signal(self, number: int) -> None:
        """Send a signal to every process of the command, as a terminal's Ctrl-C does."""
        for group in {group for _, group in self._members()}:
            os.killpg(group, number)

    def stage(self, name: str) -> int | None:
        """Return the process id of the running stage, once it has seen to Ctrl-C; else None."""
        for pid, _ in self._members():
            words = _read(pid, "cmdline").split("\0")
            if f"stages/{name}.py" in words and _catches_sigterm(pid):
                return pid
        return None

    def is_over(self, name: str) -> bool:
        """Say whether the stage does not run."""
        return self.stage(name) is None

    def wait_for_stage(self, *names: str) -> int | None:
        """Wait for one of the stages; return its process id; None if the command ended before."""
        found: list[int] = []

        def seen() -> bool:
            found.extend(pid for name in names if (pid := self.stage(name)))
            return bool(found) or self.process.poll() is not None

        wait_until(seen, f"the start of {' or '.join(names)}")
        return found[0] if found else None

    def _members(self) -> list[tuple[int, int]]:
        """Process and group ids of the session's processes that are not dead yet."""
        found = []
        for pid in psutil.pids():
            with suppress(ProcessLookupError):  # it has just ended
                if os.getsid(pid) == self.process.pid:
                    state = _read(pid, "stat").rpartition(")")[2].split()[:1]
                    if state and state[0] not in "ZX":
                        found.append((pid, os.getpgid(pid)))
        return found


def _read(pid: int, name: str) -> str:
    try:
        return (Path("/proc") / str(pid) / name).read_text()
    except OSError:  # it has just ended
        return ""


def _catches_sigterm(pid: int) -> bool:
    for line in _read(pid, "status").splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) & SIGTERM_BIT)
    return False


@dataclass(frozen=True)
class Undisturbed:
    """What a run leaves that nobody disturbs, and how long its stages took."""

    outputs: dict[str, str]
    status: str
    seconds: dict[str, float]

    def check(self, project: Project) -> None:
        """Fail where a project has other outputs than that run, or another status in Git."""
        found = outputs(project)
        names = found.keys() | self.outputs
        different = sorted(name for name in names if found.get(name) != self.outputs.get(name))
        assert not different, f"different: {different}"
        assert project.git_status() == self.status


def run_undisturbed(project: Project) -> Undisturbed:
    """Run the whole pipeline and measure it."""
    seconds = {}
    with Command(project, "dvc", "repro") as command:
        start = time.monotonic()
        for stage in STAGES:
            assert command.wait_for_stage(stage), command.text
            if stage == STAGES[0]:
                seconds[DVC_ITSELF] = time.monotonic() - start
            begin = time.monotonic()
            wait_until(partial(command.is_over, stage), f"the end of {stage}")
            seconds[stage] = time.monotonic() - begin
        assert command.wait() == 0, command.text
    return Undisturbed(outputs(project), project.git_status(), seconds)


def outputs(project: Project) -> dict[str, str]:
    """Return the hash of every output and of dvc.lock; fail where something partial is left.

    A killed DVC can leave a temporary file of its own beside an output, `.<random>.tmp`; .dvcignore
    and .gitignore keep it out of everything.
    """
    left = [str(path) for path in project.root.rglob("*.partial") if ".dvc" not in path.parts]
    assert not left, f"partial files are left: {left}"
    lock = (project.root / "dvc.lock").read_text()
    hashes = project.hashes()
    return {name: hashes[name] for name in hashes if not fnmatch(name, "*/.*.tmp")} | {
        "dvc.lock": lock
    }


def forget(project: Project) -> None:
    """Bring the project back to where nothing has run: no outputs, cache or checkpoints."""
    project.run("rm", "-rf", *OUTPUT_FOLDERS, ".dvc/cache", ".dvc/tmp", "checkpoints")
    project.run("git", "checkout", "--quiet", ".")
    project.run("git", "clean", "--quiet", "-d", "--force")


def kill_once(project: Project, aim: str, delay: float) -> bool:
    """Start `dvc repro`, kill all of it `delay` seconds into `aim`; say whether it was running.

    Where an earlier kill came so late that `aim` is done, the next stage is the aim.
    """
    with Command(project, "dvc", "repro") as command:
        if aim != DVC_ITSELF and not command.wait_for_stage(*STAGES[STAGES.index(aim) :]):
            assert command.process.returncode == 0, f"{aim} did not run:\n{command.text}"
            return False
        time.sleep(delay)
        running = command.process.poll() is None
        command.signal(signal.SIGKILL)
        assert command.wait() in (0, -signal.SIGKILL), command.text
        return running


def needs_mending(project: Project) -> bool:
    """Say whether a kill hit DVC in the instant in which it wrote one of its own two files.

    It empties them first and writes them then (rwlock.py and utils/serialize in DVC 3.67), and
    refuses to start on what a kill between the two leaves.
    """
    locks = project.root / ".dvc/tmp/rwlock"
    try:
        if locks.exists():
            json.loads(locks.read_text())
        return "stages" not in (YAML(typ="safe").load(project.root / "dvc.lock") or {})
    except (json.JSONDecodeError, YAMLError):
        return True


def mend(project: Project) -> bool:
    """Do what the README says, where it is needed; say whether it was."""
    needed = needs_mending(project)
    if needed:
        project.run("sh", "-c", MEND)
    return needed


def soak_round(
    project: Project, expected: Undisturbed, seed: int, aims: Sequence[str] = AIMS
) -> tuple[int, int]:
    """From nothing: kill once at each of `aims`, finish, and compare.

    Returns:
        The kills that hit, and the kills after which DVC's own files needed mending.

    Raises:
        AssertionError: something differs; the message names the seed and the moments.
    """
    rng = random.Random(seed)
    forget(project)
    moments = [(aim, rng.uniform(0, AFTER) * expected.seconds[aim]) for aim in aims]
    try:
        kills = mended = 0
        for aim, delay in moments:
            kills += kill_once(project, aim, delay)
            mended += mend(project)
        with Command(project, "dvc", "repro") as command:
            assert command.wait() == 0, command.text
        expected.check(project)
    except AssertionError as error:
        raise AssertionError(f"seed {seed}, kills at {moments}: {error}") from None
    return kills, mended


def main() -> None:
    """Run the long form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=60, help="stop after so many (60)")
    parser.add_argument("--seed", type=int, default=0, help="of the first round (0)")
    arguments = parser.parse_args()
    params = dict(SMALL)
    if SHARED_MNIST.is_dir():
        params |= {"download.dataset": "mnist", "train.epochs": 4, "train.batch_size": 512}
        os.environ["DATASET_MIRROR"] = str(SHARED_MNIST)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder) / "project", params)
        expected = run_undisturbed(project)
        shown = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in expected.seconds.items())
        print(f"{params['download.dataset']}, undisturbed: {shown}", flush=True)
        kills = mended = rounds = 0
        while kills < arguments.kills:
            seed = arguments.seed + rounds
            hits, mends = soak_round(project, expected, seed)
            kills, mended, rounds = kills + hits, mended + mends, rounds + 1
            passed = time.monotonic() - begin
            print(f"seed {seed}: {kills} kills survived so far, {passed:.0f} s", flush=True)
    print(
        f"{kills} kills survived in {time.monotonic() - begin:.0f} s; after each of {rounds} "
        f"rounds all {len(expected.outputs)} outputs were those of the undisturbed run "
        f"(DVC's own files needed mending after {mended})"
    )


if __name__ == "__main__":
    main()
