"""`search`: the same trials whatever happens meanwhile, and only the winner sees the test split."""

import ctypes
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from dvc.lock import LockError  # type: ignore[import-untyped]
from dvc.repo.experiments.executor.base import ExecutorInfo  # type: ignore[import-untyped]
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import TrialState

from image_pipeline.common.errors import ParamsError
from image_pipeline.experiments import queue, spaces, trials
from image_pipeline.experiments.trials import NUMBER, search
from project import Project

COMMAND = (sys.executable, "-m", "image_pipeline")
SPACE: dict[str, BaseDistribution] = {
    "x": FloatDistribution(0, 1),
    "y": FloatDistribution(1e-3, 1, log=True),
}
PRESENT = {"x": 0.9, "y": 0.5}
EPOCHS = 40
PR_SET_CHILD_SUBREAPER = 36


class Made:
    """Runs trials of a known function, at speeds of its own; one in ten fails."""

    def __init__(self, seed: int, ended: dict[str, pd.DataFrame]) -> None:
        self._dice = random.Random(seed)
        self._at_work: dict[str, tuple[pd.DataFrame, int]] = {}
        self._ended = ended  # outlives the process, as DVC's experiments do
        self.given_up: list[str] = []
        self._told: set[str] = set()

    def start(self, number: int, values: dict[str, Any]) -> str:
        name = f"t{number}"
        best = 1 - (values["x"] - 0.3) ** 2 - 0.1 * abs(np.log10(values["y"]) + 2)
        epochs = np.arange(1, EPOCHS + 1)
        curve = best * (1 - np.exp(-epochs / 8)) + 0.01 * np.sin(epochs * number)
        table = pd.DataFrame({"epoch": epochs, "validation_accuracy": curve})
        if name in self._ended:
            self._told.add(name)
        else:
            self._at_work[name] = table, 0
        return name

    def ended(self) -> tuple[set[str], set[str]]:
        well, failed = self._told, set()
        self._told = set()
        for name, (table, epochs) in list(self._at_work.items()):
            self._at_work[name] = table, epochs + self._dice.randint(0, 15)
            if epochs >= EPOCHS:
                del self._at_work[name]
                if int(name[1:]) % 10 == 7:
                    failed.add(name)
                else:
                    self._ended[name] = table
                    well.add(name)
        return well, failed

    def curves(self, name: str) -> tuple[pd.DataFrame, int]:
        if name in self._ended:
            return self._ended[name], EPOCHS
        table, epochs = self._at_work.get(name, (pd.DataFrame({"epoch": []}), 0))
        return table.iloc[:epochs], EPOCHS

    def give_up(self, name: str) -> None:
        del self._at_work[name]
        self.given_up.append(name)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "PAUSE", 0)
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def open_study(path: Path) -> optuna.Study:
    return optuna.create_study(
        study_name="s", direction="maximize", storage=f"sqlite:///{path}", load_if_exists=True
    )


def results(study: optuna.Study) -> dict[int, tuple[Any, ...]]:
    return {
        t.user_attrs[NUMBER]: (t.state, t.value, t.params)
        for t in sorted(study.trials, key=lambda t: int(t.user_attrs[NUMBER]))
    }


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_killed_at_any_time_it_ends_in_the_same_trials(jobs: int, tmp_path: Path) -> None:
    whole = open_study(tmp_path / "whole.sqlite")
    runner = Made(0, {})
    list(search(whole, SPACE, PRESENT, 30, jobs, 0, runner))
    assert list(results(whole)) == list(range(30))
    assert results(whole)[0][2] == PRESENT
    states = [t.state for t in whole.trials]
    assert states.count(TrialState.FAIL) == 3
    assert states.count(TrialState.PRUNED) == len(runner.given_up) > 0

    dice = random.Random(jobs)
    ended: dict[str, pd.DataFrame] = {}
    for attempt in range(20):
        study = open_study(tmp_path / "killed.sqlite")
        steps = search(study, SPACE, PRESENT, 30, jobs, 0, Made(attempt, ended))
        for _ in range(dice.randint(1, 6)):
            if next(steps, None) is None:
                break
    assert results(study) == results(whole)


def test_it_finds_what_chance_does_not(tmp_path: Path) -> None:
    study = open_study(tmp_path / "s.sqlite")
    list(search(study, SPACE, None, 40, 2, 0, Made(0, {})))
    done = [t for t in study.trials if t.state == TrialState.COMPLETE]
    first = max(t.values[0] for t in done if t.user_attrs[NUMBER] < trials.STARTUP)
    assert study.best_value > first
    assert abs(study.best_params["x"] - 0.3) < 0.15


@pytest.fixture
def in_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    project = Project(tmp_path / "project")
    monkeypatch.chdir(project.root)
    return project


def test_the_spaces_there_are_hold_the_committed_params(in_project: Project) -> None:
    in_project.run("git", "checkout", "--quiet", ".")
    for name in spaces.names():
        assert len(spaces.headline(name)) > 20
        space = spaces.read_space(name)
        present = spaces.present(space)
        assert present is not None
        assert present.keys() == space.distributions.keys()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train.learning_rat: [1]", "train.learning_rat: params.yaml has no such key"),
        ("train.learning_rate: [0.1, 20.0]", "train.learning_rate"),
        ("train.learning_rate: {low: 1}", "it must be a list to choose from, or low and high"),
        ("train.learning_rate: {low: 2.0, high: 1.0}", "train.learning_rate: "),
        ("[]", "it must have a line for each key"),
        ("a: [", "not valid YAML"),
    ],
)
def test_mistakes_in_a_space(line: str, said: str, in_project: Project) -> None:
    path = in_project.root / "recipes" / "spaces" / "mine.yaml"
    path.write_text(f"# mine\n{line}\n")
    with pytest.raises(ParamsError) as caught:
        spaces.read_space("mine")
    assert str(caught.value).startswith("recipes/spaces/mine.yaml: ")
    assert said in str(caught.value)
    with pytest.raises(ParamsError, match=r"there is no space `none` in .*; there are mine, mlp"):
        spaces.read_space("none")


def test_a_second_search_of_a_space_is_refused(in_project: Project) -> None:
    path = in_project.root / "recipes/spaces/mlp.yaml"
    hold = "import fcntl, sys; file = open(sys.argv[1]); fcntl.flock(file, 2); print(); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout
        other.stdout.readline()
        done = in_project.run(*COMMAND, "search", "mlp", check=False)
        other.communicate(b"\n")
    assert done.returncode == 1
    assert done.stderr == (
        "search: error: recipes/spaces/mlp.yaml: another search of this space is at work; wait for "
        "its end\n"
    )


def test_it_waits_for_another_dvc_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(queue, "PAUSE", 0)
    asked = tmp_path / "asked"  # by a process of its own

    def run(**arguments: Any) -> None:
        with asked.open("a") as file:
            file.write(f"{json.dumps(arguments)}\n")
        if asked.read_text().count("\n") < 3:
            raise LockError("another command is at work")

    dvc = queue.Queue(1)
    monkeypatch.setattr(dvc, "_repo", SimpleNamespace(experiments=SimpleNamespace(run=run)), False)
    dvc._run_later(name="mine")
    assert asked.read_text() == '{"queue": true, "name": "mine"}\n' * 3
    monkeypatch.setattr(queue, "PATIENCE", 0)
    asked.unlink()
    with pytest.raises(queue.QueueError, match="another DVC command"):
        dvc._run_later(name="mine")
    monkeypatch.setattr("dvc.repo.Repo", nullcontext)
    with pytest.raises(queue.QueueError, match="another DVC command"):
        queue.wait_for_dvc()


def test_dvc_queues_to_the_end_though_the_command_is_killed(tmp_path: Path) -> None:
    """Its changes to the workspace would stay, else."""
    script = (
        "import os, signal, sys, time\n"
        "from pathlib import Path\n"
        "from image_pipeline.experiments.queue import _to_its_end\n"
        "def queue_one():\n"
        "    os.kill(os.getppid(), signal.SIGKILL)\n"
        "    time.sleep(1)\n"
        "    Path(sys.argv[1]).touch()\n"
        "_to_its_end(queue_one)\n"
    )
    path = tmp_path / "ended"
    done = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    end = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    with pytest.raises(queue.QueueError, match=r"DVC cannot queue a run: no such thing$"):
        queue._to_its_end(partial(_refuse, "no such thing"))


def _refuse(why: str) -> None:
    raise ValueError(why)


def test_idle_workers_may_end_so_that_what_was_lost_is_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two that end and are started anew in turn would wait for ever for what was killed."""
    waiting, started, ended = ["one", "two"], list[int](), list[bool]()
    dvc = queue.Queue(2)
    dvc._changes = {"one": ([], None), "two": ([], None)}
    fake = SimpleNamespace(iter_queued=lambda: iter(waiting), _spawn_worker=started.append)
    monkeypatch.setattr(dvc, "_queue", fake, False)
    monkeypatch.setattr(queue, "START", 0)
    monkeypatch.setattr(dvc, "_end_lost", lambda: ended.append(True))
    monkeypatch.setattr(dvc, "_enqueue", waiting.extend)
    for alive in ({1}, {2}):
        monkeypatch.setattr(dvc, "_workers", lambda alive=alive: alive)
        dvc._keep_workers()
    assert started == [2, 1]
    assert not ended

    waiting.clear()
    for alive in ({1}, {2}, {1}):
        monkeypatch.setattr(dvc, "_workers", lambda alive=alive: alive)
        dvc._keep_workers()
    assert started == [2, 1]
    assert not ended
    monkeypatch.setattr(dvc, "_workers", set)
    dvc._keep_workers()
    assert started == [2, 1, 1, 2]
    assert ended


def test_a_run_whose_notes_dvc_is_writing_has_no_curves_yet(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.touch()
    dvc = queue.Queue(1)
    dvc._queue = SimpleNamespace(
        iter_active=lambda: iter([SimpleNamespace(name="mine", stash_rev="")]),
        _load_info=lambda _: ExecutorInfo.load_json(str(notes)),
    )
    assert dvc.history("mine") is None
    notes.write_text(
        json.dumps(
            {"git_url": "", "baseline_rev": "", "location": "", "root_dir": "r", "dvc_dir": ""}
        )
    )
    assert dvc.history("mine") == Path("r/plots/history.csv")


@pytest.fixture
def nobody_reaps() -> Iterator[None]:
    """Let what orphans leave stay in the table of processes, as in a container without an init."""
    if sys.platform != "linux":
        yield
        return
    prctl = ctypes.CDLL(None).prctl
    assert prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    yield
    assert prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) == 0
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


TINY = """# for a test
train.learning_rate: {low: 1.0e-4, high: 1.0e-1, log: true}
train.batch_size: [32, 64]
train.model.mlp.hidden_sizes: [[8], [16, 8]]
"""


@pytest.mark.slow
@pytest.mark.usefixtures("nobody_reaps")
def test_killed_five_times_on_digits(finished: Project, tmp_path: Path) -> None:
    """Thirty trials would take minutes; the loop's own test has so many."""
    whole = finished
    (whole.root / "recipes/spaces/tiny.yaml").write_text(TINY)
    whole.commit("a space")
    killed = whole.copy_to(tmp_path / "killed")
    arguments = ("search", "tiny", "--trials", "4", "--jobs", "2")
    expected = whole.run(*COMMAND, *arguments, "--picture", "matters.png", timeout=900)
    assert (whole.root / "matters.png").stat().st_size > 5_000

    dice = random.Random(0)
    for _ in range(5):
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=killed.root,
            env=killed.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(dice.uniform(2, 12))
        process.kill()
        process.wait()
        for path in killed.root.glob(".dvc/tmp/exps/celery/dvc-exp-worker-*.pid"):
            with suppress(ProcessLookupError, ValueError):  # it has just ended, or begun
                os.kill(int(path.read_text()), signal.SIGKILL)
    done = killed.run(*COMMAND, *arguments, timeout=900)
    assert done.stdout == expected.stdout
    assert "4 trials: " in done.stdout
    assert killed.git_status() == ""

    # The test split is the winner's alone: no trial has another's result than the commit's.
    committed = json.loads((killed.root / "metrics/test.json").read_text())
    listed = killed.run("git", "for-each-ref", "--format=%(refname)", "refs/exps/*/*/search-*")
    for ref in listed.stdout.split():
        metrics = json.loads(killed.run("git", "show", f"{ref}:metrics/test.json").stdout)
        assert (metrics == committed) != ref.endswith("-best")
    assert sum(ref.endswith("-best") for ref in listed.stdout.split()) == 1
