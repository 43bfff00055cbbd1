"""Ctrl-C ends a stage, or `dvc repro`, at once and in one line that says how to go on."""

import signal
import time

import pytest
from kill_harness import WAITING, Command, Undisturbed, forget, outputs

from project import SMALL, Project

LONG_RUN = {**SMALL, "train.epochs": 3000}


def interrupt(command: Command, *signals: int) -> float:
    """Send the signals in quick succession, a Ctrl-C if none; return the seconds until the end."""
    start = time.monotonic()
    for number in signals or (signal.SIGINT,):
        command.signal(number)
        time.sleep(0.02)
    command.wait()
    return time.monotonic() - start


ONCE, TWICE, TERMINATE = (signal.SIGINT,), (signal.SIGINT, signal.SIGINT), (signal.SIGTERM,)


@pytest.mark.parametrize(
    ("stage", "share", "signals", "status", "how"),
    [
        ("download", 0.0, ONCE, 130, "interrupted"),
        ("tensorize", 0.2, TWICE, 130, "interrupted"),
        ("train", 0.1, ONCE, 130, "interrupted"),  # libraries are being imported
        ("train", 0.8, TWICE, 130, "interrupted"),
        ("train", 0.5, TERMINATE, 143, "terminated"),
        ("evaluate", 0.5, ONCE, 130, "interrupted"),
        ("plot", 0.8, TWICE, 130, "interrupted"),
        ("export", 0.6, ONCE, 130, "interrupted"),
    ],
)
def test_a_stage_by_itself(
    undisturbed: tuple[Project, Undisturbed],
    stage: str,
    share: float,
    signals: tuple[int, ...],
    status: int,
    how: str,
) -> None:
    project, expected = undisturbed
    # A stage can turn out faster than it was before: try again, earlier.
    for delay in (share * expected.seconds[stage] / 2**attempt for attempt in range(5)):
        with Command(project, "python", f"stages/{stage}.py") as command:
            assert command.wait_for_stage(stage), command.text
            time.sleep(delay)
            seconds = interrupt(command, *signals)
        if command.process.returncode not in (0, -signals[0]):  # while the interpreter ends
            break
    assert command.process.returncode == status, command.text
    lines = [line.strip() for line in command.text.splitlines() if line.strip()]
    usual = (f"{stage}:  ", f"{stage}: 100%", "train: one_cycle changes the learning rate ")
    said = [line for line in lines if not line.startswith(usual)]
    assert said == [f"{stage}: error: {how}; run `dvc repro` to go on"]
    assert lines[-1] == said[0]
    assert seconds < 10  # it takes much less; a bound that a busy machine keeps, too
    assert outputs(project).keys() == expected.outputs.keys()  # and nothing partial


def test_dvc_repro_is_interrupted_in_training_and_goes_on(
    undisturbed: tuple[Project, Undisturbed],
) -> None:
    project, expected = undisturbed
    forget(project)
    with Command(project, "dvc", "repro") as command:
        assert command.wait_for_stage("train")
        time.sleep(expected.seconds["train"] / 2)
        interrupt(command)
    assert command.process.returncode == 255
    lines = command.text.splitlines()
    assert lines.count("train: error: interrupted; run `dvc repro` to go on") == 1
    assert "Traceback" not in command.text
    again = project.run("dvc", "repro")
    assert "going on after epoch" in again.stdout or "Running stage 'train'" in again.stdout
    expected.check(project)


def test_waiting_for_the_other_run_is_interrupted_too(
    undisturbed: tuple[Project, Undisturbed],
) -> None:
    project, _ = undisturbed
    project.set_params(LONG_RUN)
    try:
        with (
            Command(project, "python", "stages/train.py") as first,
            Command(project, "python", "stages/train.py") as second,
        ):
            assert first.wait_for_stage("train")
            waiting = first
            while waiting.text.count("another run of this stage is active") == 0:
                waiting = second if waiting is first else first
                time.sleep(0.05)
            interrupt(waiting)
            assert waiting.process.returncode == 130
            interrupted = "train: error: interrupted; run `dvc repro` to go on"
            assert waiting.text.splitlines() == [WAITING, interrupted]
    finally:
        project.set_params(SMALL)
