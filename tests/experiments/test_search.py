"""`search`: the same trials however it is timed; only the best is tested on the test split."""

import ctypes
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from dvc.lock import LockError  # type: ignore[import-untyped]
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from background import BackgroundCommand
from experiments.experiment_projects import kill_workers
from image_pipeline.common.errors import ParamsError, PipelineError
from image_pipeline.common.locks import lock
from image_pipeline.experiments import dvc_queue, trials
from image_pipeline.experiments.dvc_runner import DvcRunner
from image_pipeline.experiments.search_spaces import SPACES, current_values, read_space
from image_pipeline.experiments.trials import NUMBER, search
from project import Project, run, wait_until
from refusals import said_by

COMMAND = (sys.executable, "-m", "image_pipeline")
SPACE: dict[str, BaseDistribution] = {
    "x": FloatDistribution(0, 1),
    "y": FloatDistribution(1e-3, 1, log=True),
}
CURRENT = {"x": 0.9, "y": 0.5}
EPOCHS = 40
PR_SET_CHILD_SUBREAPER = 36


class FakeRunner(DvcRunner):
    """Runs trials of a known function at random speeds; one in ten fails."""

    def __init__(self, seed: int, ended: dict[str, pd.DataFrame]) -> None:
        self._rng = random.Random(seed)
        self._running: dict[str, tuple[pd.DataFrame, int]] = {}
        self._ended = ended  # survives a kill, as DVC's experiments do
        self.pruned: list[str] = []
        self._already_run: set[str] = set()

    def start(self, number: int, values: dict[str, Any]) -> str:
        name = f"t{number}"
        best = 1 - (values["x"] - 0.3) ** 2 - 0.1 * abs(np.log10(values["y"]) + 2)
        epochs = np.arange(1, EPOCHS + 1)
        curve = best * (1 - np.exp(-epochs / 8)) + 0.01 * np.sin(epochs * number)
        table = pd.DataFrame({"epoch": epochs, "validation_accuracy": curve})
        if name in self._ended:
            self._already_run.add(name)
        else:
            self._running[name] = table, 0
        return name

    def poll(self) -> tuple[set[str], set[str]]:
        succeeded, failed = self._already_run, set()
        self._already_run = set()
        for name, (table, epochs) in list(self._running.items()):
            self._running[name] = table, epochs + self._rng.randint(0, 15)
            if epochs >= EPOCHS:
                del self._running[name]
                if int(name[1:]) % 10 == 7:
                    failed.add(name)
                else:
                    self._ended[name] = table
                    succeeded.add(name)
        return succeeded, failed

    def curves(self, name: str) -> tuple[pd.DataFrame, int]:
        if name in self._ended:
            return self._ended[name], EPOCHS
        table, epochs = self._running.get(name, (pd.DataFrame({"epoch": []}), 0))
        return table.iloc[:epochs], EPOCHS

    def prune(self, name: str) -> None:
        del self._running[name]
        self.pruned.append(name)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "POLL_SECONDS", 0)
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def open_study() -> Iterator[Callable[[Path], optuna.Study]]:
    """Return a function that opens a study; from 3.13 on Python warns of those left open."""
    storages = []

    def open_(path: Path) -> optuna.Study:
        storages.append(RDBStorage(f"sqlite:///{path}"))
        return optuna.create_study(
            study_name="s", direction="maximize", storage=storages[-1], load_if_exists=True
        )

    yield open_
    for storage in storages:
        storage.remove_session()
        storage.engine.dispose()


def results(study: optuna.Study) -> dict[int, tuple[Any, ...]]:
    return {
        t.user_attrs[NUMBER]: (t.state, t.value, t.params)
        for t in sorted(study.trials, key=lambda t: int(t.user_attrs[NUMBER]))
    }


@pytest.mark.parametrize("jobs", [1, 3])
def test_trials_are_the_same_if_the_search_is_killed(
    jobs: int, open_study: Callable[[Path], optuna.Study], tmp_path: Path
) -> None:
    whole = open_study(tmp_path / "whole.sqlite")
    runner = FakeRunner(0, {})
    list(search(whole, SPACE, CURRENT, 30, jobs, 0, runner))
    assert list(results(whole)) == list(range(30))
    assert results(whole)[0][2] == CURRENT
    states = [t.state for t in whole.trials]
    assert states.count(TrialState.FAIL) == 3
    assert states.count(TrialState.PRUNED) == len(runner.pruned) > 0

    rng = random.Random(jobs)
    ended: dict[str, pd.DataFrame] = {}
    for attempt in range(20):
        study = open_study(tmp_path / "killed.sqlite")
        steps = search(study, SPACE, CURRENT, 30, jobs, 0, FakeRunner(attempt, ended))
        for _ in range(rng.randint(1, 6)):
            if next(steps, None) is None:
                break
    assert results(study) == results(whole)


def test_proposals_beat_random_search(
    open_study: Callable[[Path], optuna.Study], tmp_path: Path
) -> None:
    study = open_study(tmp_path / "s.sqlite")
    list(search(study, SPACE, None, 40, 2, 0, FakeRunner(0, {})))
    done = [t for t in study.trials if t.state == TrialState.COMPLETE]
    first = max(t.values[0] for t in done if t.user_attrs[NUMBER] < trials.STARTUP_TRIALS)
    assert study.best_value > first
    assert abs(study.best_params["x"] - 0.3) < 0.15


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("search") / "project")


@pytest.fixture
def in_project(copied: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """Run in a copy of the project; remove what the test has added to it."""
    monkeypatch.chdir(copied.root)
    yield copied
    copied.run("git", "clean", "--quiet", "-d", "--force")


def test_committed_spaces_contain_the_committed_params(in_project: Project) -> None:
    in_project.run("git", "checkout", "--quiet", ".")
    for name in SPACES.names():
        assert len(SPACES.headline(name)) > 20
        space = read_space(name)
        current = current_values(space)
        assert current is not None
        assert current.keys() == space.distributions.keys()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train.learning_rat: [1]", "train.learning_rat: params.yaml has no such key"),
        ("train.learning_rate: [0.1, 20.0]", "train.learning_rate"),
        ("train.learning_rate: {low: 1}", "it must be a list of choices, or low and high"),
        ("train.learning_rate: {low: 2.0, high: 1.0}", "train.learning_rate: "),
        ("[]", "it must have a line for each key"),
        ("a: [", "not valid YAML"),
    ],
)
def test_invalid_spaces(line: str, said: str, in_project: Project) -> None:
    path = in_project.root / "recipes" / "spaces" / "mine.yaml"
    path.write_text(f"# mine\n{line}\n")
    message = said_by(ParamsError, read_space, "mine")
    assert message.startswith("recipes/spaces/mine.yaml: ")
    assert said in message
    with pytest.raises(ParamsError, match=r"there is no space `none` in .*; there are mine, mlp"):
        read_space("none")


def test_a_second_search_of_a_space_is_an_error(in_project: Project) -> None:
    path = in_project.root / "recipes/spaces/mlp.yaml"
    other = lock(path)
    assert other
    with other:
        done = in_project.run(*COMMAND, "search", "mlp", check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "search: error: recipes/spaces/mlp.yaml: another search of this space is running; wait "
        "until it ends\n"
    )


@pytest.fixture
def dvc(monkeypatch: pytest.MonkeyPatch) -> dvc_queue.Queue:
    """Return a queue of two jobs that waits for `one` and `two`, with nothing of DVC behind it."""
    monkeypatch.setattr(dvc_queue, "POLL_SECONDS", 0)
    monkeypatch.setattr(dvc_queue, "WORKER_TIMEOUT", 0)
    queue: Any = dvc_queue.Queue(2)
    queue._pending = {"one": ([], None), "two": ([], None)}
    queue._repo = SimpleNamespace(experiments=SimpleNamespace())
    queue._queue = SimpleNamespace(
        wdir="queue",
        **dict.fromkeys(("iter_queued", "iter_failed", "iter_active"), lambda: iter(())),
    )
    queue._workers = set
    return queue  # type: ignore[no-any-return]


def test_waits_for_other_dvc_commands(
    dvc: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = tmp_path / "calls"  # a file, since another process makes them

    def run(**arguments: Any) -> None:
        with calls.open("a") as file:
            file.write(f"{json.dumps(arguments)}\n")
        if calls.read_text().count("\n") < 3:
            raise LockError("another command is running")

    dvc._repo.experiments.run = run
    dvc._enqueue_one(name="mine")
    assert calls.read_text() == '{"queue": true, "name": "mine"}\n' * 3
    monkeypatch.setattr(dvc_queue, "LOCK_TIMEOUT", 0)
    calls.unlink()
    with pytest.raises(PipelineError, match="another DVC command"):
        dvc._enqueue_one(name="mine")
    monkeypatch.setattr("dvc.repo.Repo", nullcontext)
    with pytest.raises(PipelineError, match="another DVC command"):
        dvc_queue.wait_for_dvc()


KILLED = """
import os, signal, sys, time
from pathlib import Path
from image_pipeline.experiments.dvc_queue import _run_uninterrupted
def enqueue():
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(1)
    Path(sys.argv[1]).touch()
_run_uninterrupted(enqueue)
"""


def test_queueing_completes_if_the_command_is_killed(tmp_path: Path) -> None:
    """Otherwise DVC's temporary changes to the workspace would remain."""
    path = tmp_path / "ended"
    done = run(sys.executable, "-c", KILLED, path, check=False)
    assert done.returncode == -signal.SIGKILL
    wait_until(path.exists, "the end of queueing", 30)
    with pytest.raises(PipelineError, match=r"DVC cannot queue a run: invalid literal for int"):
        dvc_queue._run_uninterrupted(lambda: int("no number"))


def test_idle_workers_may_exit_so_that_lost_runs_are_queued_again(
    dvc: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers restarted in turn would wait forever for a killed run."""
    waiting, started, orphaned = ["one", "two"], list[int](), list[bool]()
    dvc._queue.iter_queued = lambda: iter(waiting)
    dvc._remove_orphaned = lambda: orphaned.append(True)
    dvc._enqueue = waiting.extend
    monkeypatch.setattr(dvc_queue, "spawn_worker", lambda _, number: started.append(number))
    monkeypatch.setattr(dvc_queue, "experiments", dict)

    def ensure(alive: set[int]) -> None:
        dvc._workers = lambda: alive
        dvc._ensure_workers()

    ensure({1})
    ensure({2})
    assert started == [2, 1]
    waiting.clear()
    for alive in ({1}, {2}, {1}):
        ensure(alive)
    assert started == [2, 1]
    assert not orphaned
    ensure(set())
    assert started == [2, 1, 1, 2]
    assert orphaned


def test_a_run_that_ended_after_the_last_poll_is_not_queued_again(
    dvc: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC would refuse it: an experiment of its name exists."""
    queued: list[str] = []
    dvc._enqueue = queued.extend
    monkeypatch.setattr(dvc_queue, "experiments", lambda: {"one": None})
    assert dvc.poll() == ({"one"}, set())
    assert queued == ["two"]


def test_of_several_runs_of_one_name_those_that_failed_are_removed(dvc: Any) -> None:
    """DVC removes one entry of a name: it may be another, that nobody collected."""
    removed: list[str] = []
    entries = [
        SimpleNamespace(entry=SimpleNamespace(name=name, stash_rev=revision))
        for name, revision in (("mine", "a1"), ("mine", "a2"), ("other", "b1"))
    ]
    dvc._queue.iter_failed, dvc._queue.remove = lambda: entries, removed.extend
    dvc._remove_failed({"mine"})
    assert sorted(removed) == ["a1", "a2"]


def test_no_curves_while_dvc_rewrites_a_runs_info(dvc: Any, tmp_path: Path) -> None:
    info = tmp_path / "info"
    info.touch()
    dvc._queue.iter_active = lambda: [SimpleNamespace(name="mine", stash_rev="")]
    dvc._queue.get_infofile_path = lambda _: str(info)
    assert dvc.history("mine") is None
    names = ("git_url", "baseline_rev", "location", "dvc_dir")
    info.write_text(json.dumps(dict.fromkeys(names, "") | {"root_dir": "r"}))
    assert dvc.history("mine") == Path("r/plots/history.csv")


@pytest.fixture
def zombies_stay() -> Iterator[None]:
    """Leave orphaned processes unreaped, as in a container without an init."""
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
@pytest.mark.usefixtures("zombies_stay")
def test_search_of_digits_killed_five_times(finished: Project, tmp_path: Path) -> None:
    """Only four trials, since more take minutes; the test of the loop runs thirty."""
    whole = finished
    (whole.root / "recipes/spaces/tiny.yaml").write_text(TINY)
    whole.commit("a space")
    killed = whole.copy_to(tmp_path / "a b ü")  # of which DVC's own workers would die
    arguments = ("search", "tiny", "--trials", "4", "--jobs", "2")
    expected = whole.run(*COMMAND, *arguments, "--picture", "matters.png", timeout=900)
    assert (whole.root / "matters.png").stat().st_size > 5_000

    rng = random.Random(0)
    for number in range(5):
        process = BackgroundCommand(killed, *COMMAND, *arguments).process
        time.sleep(rng.uniform(2, 12))
        process.kill()
        process.wait()
        if number > 0:  # the first one's workers go on
            kill_workers(killed)
    done = killed.run(*COMMAND, *arguments, timeout=900)
    assert done.stdout == expected.stdout
    assert "4 trials: " in done.stdout
    assert killed.git_status() == ""

    # Only the best trial is evaluated: all others have the test metrics of the commit.
    committed = json.loads((killed.root / "metrics/test.json").read_text())
    listed = killed.run("git", "for-each-ref", "--format=%(refname)", "refs/exps/*/*/search-*")
    for ref in listed.stdout.split():
        metrics = json.loads(killed.run("git", "show", f"{ref}:metrics/test.json").stdout)
        assert (metrics == committed) != ref.endswith("-best")
    assert sum(ref.endswith("-best") for ref in listed.stdout.split()) == 1
