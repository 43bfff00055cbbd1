"""Ctrl-C ends a stage, or `dvc repro`, at once and in one line that says how to go on."""

import signal
import time
from pathlib import Path

import pytest
from kill_harness import QUICK, STAGES, Command, Undisturbed, forget, outputs, run_undisturbed

from project import Project, require

LONG_RUN = {**QUICK, "train.epochs": 3000}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Undisturbed]:
    require(Path("/proc/self/status").exists(), "Linux's /proc")
    project = Project(tmp_path_factory.mktemp("interrupts") / "project", QUICK)
    return project, run_undisturbed(project)


def interrupt(command: Command, times: int = 1) -> float:
    """Press Ctrl-C so many times in quick succession; return the seconds until the end."""
    start = time.monotonic()
    for _ in range(times):
        command.signal(signal.SIGINT)
        time.sleep(0.02)
    command.wait()
    return time.monotonic() - start


@pytest.mark.parametrize(("share", "times"), [(0.0, 1), (0.2, 2), (0.5, 1), (0.8, 2)])
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_by_itself(
    finished: tuple[Project, Undisturbed], stage: str, share: float, times: int
) -> None:
    project, undisturbed = finished
    # A stage can turn out faster than it was before: try again, earlier.
    for delay in (share * undisturbed.seconds[stage] / 2**attempt for attempt in range(5)):
        with Command(project, "python", f"stages/{stage}.py") as command:
            assert command.wait_for_stage(stage), command.text
            time.sleep(delay)
            seconds = interrupt(command, times)
        if command.process.returncode not in (0, -signal.SIGINT):  # while the interpreter ends
            break
    assert command.process.returncode == 130, command.text
    lines = [line.strip() for line in command.text.splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith((f"{stage}:  ", f"{stage}: 100%"))]
    assert said == [f"{stage}: error: interrupted; run `dvc repro` to go on"]
    assert lines[-1] == said[0]
    assert seconds < 10  # it takes much less; a bound that a busy machine keeps, too
    assert outputs(project).keys() == undisturbed.outputs.keys()  # and nothing partial


def test_dvc_repro_is_interrupted_in_training_and_goes_on(
    finished: tuple[Project, Undisturbed],
) -> None:
    project, undisturbed = finished
    forget(project)
    with Command(project, "dvc", "repro") as command:
        assert command.wait_for_stage("train")
        time.sleep(undisturbed.seconds["train"] / 2)
        interrupt(command)
    assert command.process.returncode == 255
    lines = command.text.splitlines()
    assert lines.count("train: error: interrupted; run `dvc repro` to go on") == 1
    assert "Traceback" not in command.text
    again = project.run("dvc", "repro")
    assert "going on after epoch" in again.stdout or "Running stage 'train'" in again.stdout
    assert outputs(project) == undisturbed.outputs
    assert project.git_status() == undisturbed.status


def test_waiting_for_the_other_run_is_interrupted_too(
    finished: tuple[Project, Undisturbed],
) -> None:
    project, _ = finished
    project.set_params(LONG_RUN)
    try:
        with (
            Command(project, "python", "stages/train.py") as first,
            Command(project, "python", "stages/train.py") as second,
        ):
            assert first.wait_for_stage("train")
            waiting = first
            while waiting.text.count("another run of this stage is at work") == 0:
                waiting = second if waiting is first else first
                time.sleep(0.05)
            interrupt(waiting)
            assert waiting.process.returncode == 130
            assert waiting.text.splitlines() == [
                "train: another run of this stage is at work in this folder; waiting for its end",
                "train: error: interrupted; run `dvc repro` to go on",
            ]
    finally:
        project.set_params(QUICK)
