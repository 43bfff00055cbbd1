"""Interrupted and killed runs, and two at once: what is taken up again ends in the same bits.

Several experiments of a queue at once are in experiments/test_seeds.py.
"""

import os
import signal
import time

import pytest
from kill_harness import (
    AIMS,
    MEND,
    STAGES,
    WAITING,
    Command,
    Undisturbed,
    forget,
    mend,
    outputs,
    soak_round,
)

from project import ROOT, SMALL, TRAINED, Project, wait_until

Run = tuple[Project, Undisturbed]
SEED = 20  # of the moments; `make soak` goes through many
INTERRUPTED = "train: error: interrupted; run `dvc repro` to go on"
ONCE, TWICE, TERMINATE = (signal.SIGINT,), (signal.SIGINT, signal.SIGINT), (signal.SIGTERM,)
# With which a training is another one.
CHANGES = {
    "params.yaml": ("learning_rate: 8.0e-3", "learning_rate: 6.0e-3"),
    "src/image_pipeline/augmenting/augmentation.py": ("\nimport ", "\n# changed\nimport "),
}


def test_kills_in_dvc_and_in_every_stage(undisturbed: Run) -> None:
    kills, _ = soak_round(*undisturbed, SEED)
    # How long a stage takes was measured at another moment: the last two kills may come too late.
    assert kills >= len(AIMS) - 2


@pytest.mark.parametrize(
    ("file", "left", "refusals"),
    [
        (".dvc/tmp/rwlock", "", ("Unable to read RWLock-file",)),
        ("dvc.lock", "schema: '2", ("'./dvc.lock' is invalid", "'./dvc.lock' validation failed")),
    ],
)
def test_dvc_is_killed_while_it_writes_a_file_of_its_own(
    undisturbed: Run, file: str, left: str, refusals: tuple[str, ...]
) -> None:
    project, expected = undisturbed
    project.run("dvc", "repro")
    (project.root / file).write_text(left)
    refused = project.run("dvc", "repro", check=False)
    assert refused.returncode == 255
    assert any(said in refused.stderr for said in refusals)
    assert MEND in " ".join((ROOT / "README.md").read_text().split())
    assert mend(project)
    assert not mend(project)
    project.run("dvc", "repro")
    expected.check(project)


def interrupt(command: Command, *signals: int) -> float:
    """Send the signals in quick succession; return the seconds until the end."""
    start = time.monotonic()
    for number in signals:
        command.signal(number)
        time.sleep(0.02)
    command.wait()
    return time.monotonic() - start


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
def test_a_stage_by_itself_is_interrupted(
    undisturbed: Run,
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


def wait_for_checkpoint(command: Command, project: Project) -> int:
    """Wait until training has written one; return the process id of the stage."""
    pid = command.wait_for_stage("train")
    assert pid, command.text
    folder = project.root / "checkpoints"
    wait_until(lambda: list(folder.glob("*.checkpoint")), "the first checkpoint")
    return pid


@pytest.mark.parametrize(
    ("number", "said"),
    [(signal.SIGINT, INTERRUPTED), (signal.SIGKILL, "ERROR: failed to reproduce 'train'")],
    ids=["Ctrl-C", "the stage alone is killed"],
)
def test_training_under_dvc_ends_and_goes_on(undisturbed: Run, number: int, said: str) -> None:
    project, expected = undisturbed
    forget(project)
    with Command(project, "dvc", "repro") as command:
        pid = wait_for_checkpoint(command, project)
        if number == signal.SIGINT:
            command.signal(number)
        else:
            os.kill(pid, number)
        assert command.wait() == 255, command.text
    assert sum(line.startswith(said) for line in command.text.splitlines()) == 1
    assert "Traceback" not in command.text
    assert "train: going on after epoch" in project.run("dvc", "repro").stdout
    expected.check(project)


def test_a_killed_training_goes_on_from_its_own_checkpoint(finished: Project) -> None:
    project = finished
    project.set_params({"train.epochs": 8, "train.model.mlp.hidden_sizes": [16]})
    project.stage("train")
    whole = project.hashes()
    folder = project.root / "checkpoints"
    assert not list(folder.iterdir())  # a finished run removes its own
    with Command(project, "python", "stages/train.py") as command:
        os.kill(wait_for_checkpoint(command, project), signal.SIGKILL)
        assert command.wait() == -signal.SIGKILL, command.text
    [checkpoint] = folder.glob("*.checkpoint")

    for name, (old, new) in CHANGES.items():
        path = project.root / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        done = project.stage("train")
        path.write_text(text)
        assert "going on" not in done.stdout
        assert "WARNING" not in done.stderr
        assert list(folder.iterdir()) == [checkpoint]  # it waits for its setting to come back

    for name in TRAINED:
        (project.root / name).unlink()
    project.set_params({"machine.checkpoint_every": 0, "machine.cores": 1})  # of this machine alone
    done = project.stage("train")
    [said] = [line for line in done.stdout.splitlines() if line.startswith("train: going on")]
    assert said.endswith(f" from {checkpoint.relative_to(project.root)}")
    assert int(said.removeprefix("train: going on after epoch ").split()[0]) in range(1, 8)
    assert project.hashes() == whole
    assert not list(folder.iterdir())


def test_dvc_alone_is_killed_and_its_stage_lives_on(undisturbed: Run) -> None:
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


def test_trainings_by_hand_wait_and_can_be_interrupted_meanwhile(undisturbed: Run) -> None:
    project, expected = undisturbed
    # The first with other params, read before the second begins: its outputs must not survive.
    project.set_params({"train.seed": 5, "train.epochs": 60})
    with Command(project, "python", "stages/train.py") as first:
        wait_until(lambda: "train:" in first.text, "the bar, so it has read its params")
        project.set_params({key: SMALL.get(key, 0) for key in ("train.seed", "train.epochs")})
        with (
            Command(project, "python", "stages/train.py") as second,
            Command(project, "python", "stages/train.py") as third,
        ):
            wait_until(lambda: WAITING in third.text, "its waiting")
            interrupt(third, signal.SIGINT)
            assert first.wait() == 0, first.text
            assert second.wait() == 0, second.text
    assert third.process.returncode == 130
    assert third.text.splitlines() == [WAITING, INTERRUPTED]
    assert WAITING in second.text.splitlines()
    assert WAITING not in first.text
    project.stage("plot")  # which draws the final curves
    assert outputs(project) == expected.outputs
    assert not list((project.root / "checkpoints").iterdir())
