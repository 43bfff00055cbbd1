"""Killed runs are taken up again and end in the bits of a run that nobody disturbed."""

import os
import signal

import pytest
from kill_harness import AIMS, MEND, STAGES, WAITING, Command, Undisturbed, forget, mend, soak_round

from project import ROOT, Project, wait_until

REFUSALS = (
    "Unable to read RWLock-file",
    "'./dvc.lock' is invalid",
    "'./dvc.lock' validation failed",
)
SEED = 20  # of the moments; `make soak` goes through many


def test_kills_in_dvc_and_in_every_stage(undisturbed: tuple[Project, Undisturbed]) -> None:
    project, expected = undisturbed
    kills, _ = soak_round(project, expected, SEED, AIMS)
    assert kills >= len(AIMS) - 1  # at most the last may come too late


@pytest.mark.parametrize(("file", "left"), [(".dvc/tmp/rwlock", ""), ("dvc.lock", "schema: '2")])
def test_dvc_is_killed_while_it_writes_a_file_of_its_own(
    undisturbed: tuple[Project, Undisturbed], file: str, left: str
) -> None:
    project, expected = undisturbed
    project.run("dvc", "repro")
    (project.root / file).write_text(left)
    refused = project.run("dvc", "repro", check=False)
    assert refused.returncode == 255
    assert file in refused.stderr
    assert MEND in " ".join((ROOT / "README.md").read_text().split())
    assert any(said in refused.stderr for said in REFUSALS)
    assert mend(project)
    assert not mend(project)
    project.run("dvc", "repro")
    expected.check(project)


def test_stage_alone_is_killed(undisturbed: tuple[Project, Undisturbed]) -> None:
    project, expected = undisturbed
    forget(project)
    with Command(project, "dvc", "repro") as command:
        pid = command.wait_for_stage("train")
        assert pid
        checkpoints = project.root / "checkpoints"
        wait_until(lambda: list(checkpoints.glob("*.checkpoint")), "the first checkpoint")
        os.kill(pid, signal.SIGKILL)
        assert command.wait() == 255, command.text
        assert "failed to reproduce 'train'" in command.text
        assert "Traceback" not in command.text
    again = project.run("dvc", "repro")
    assert "train: going on after epoch" in again.stdout
    expected.check(project)


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
            assert WAITING in second.text.splitlines()
        assert not any(first.stage(stage) for stage in STAGES)
    expected.check(project)
