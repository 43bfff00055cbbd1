"""Killed runs are taken up again and end in the bits of a run that nobody disturbed."""

import os
import signal
from pathlib import Path

import pytest
from kill_harness import (
    AIMS,
    QUICK,
    STAGES,
    Command,
    Undisturbed,
    forget,
    outputs,
    run_undisturbed,
    soak_round,
    wait_until,
)

from project import Project, require

SEED = 20  # of the moments; `make soak` goes through many


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Project, Undisturbed]:
    """A project after a whole run, and what that run left; each test starts with `forget`."""
    require(Path("/proc/self/status").exists(), "Linux's /proc")
    project = Project(tmp_path_factory.mktemp("kills") / "project", QUICK)
    return project, run_undisturbed(project)


def test_kills_in_dvc_and_in_every_stage(undisturbed: tuple[Project, Undisturbed]) -> None:
    project, expected = undisturbed
    kills = soak_round(project, expected, SEED, [*AIMS, "train"])
    assert kills >= len(AIMS) - 1  # at most the last may come too late


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda n: n.name)
def test_stage_alone_is_killed(
    undisturbed: tuple[Project, Undisturbed], number: signal.Signals
) -> None:
    project, expected = undisturbed
    forget(project)
    with Command(project, "dvc", "repro") as command:
        pid = command.wait_for_stage("train")
        assert pid
        checkpoints = project.root / "checkpoints"
        wait_until(lambda: list(checkpoints.glob("*.checkpoint")), "the first checkpoint")
        os.kill(pid, number)
        assert command.wait() == 255, command.text
        assert "failed to reproduce 'train'" in command.text
        assert "Traceback" not in command.text
        said = "train: error: terminated; run `dvc repro` to go on"
        assert (said in command.text.splitlines()) == (number == signal.SIGTERM)
    again = project.run("dvc", "repro")
    assert "train: going on after epoch" in again.stdout
    assert outputs(project) == expected.outputs
    assert project.git_status() == expected.status


def test_dvc_alone_is_killed_and_its_stage_lives_on(
    undisturbed: tuple[Project, Undisturbed],
) -> None:
    project, expected = undisturbed
    forget(project)
    with Command(project, "dvc", "repro") as first:
        assert first.wait_for_stage("train")
        first.process.kill()
        first.process.wait()
        assert first.stage("train"), "the orphan has ended too early for this test"
        with Command(project, "dvc", "repro") as second:
            assert second.wait() == 0, second.text
            waited = (
                "train: another run of this stage is at work in this folder; waiting for its end"
            )
            assert waited in second.text.splitlines()
        assert not any(first.stage(stage) for stage in STAGES)
    assert outputs(project) == expected.outputs
    assert project.git_status() == expected.status
