import json
import math
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from image_pipeline.common.locks import lock
from project import LONGER, SHARED_MNIST, SMALL, Project, require

if TYPE_CHECKING:
    from kill_harness import Undisturbed

ROOT = Path(__file__).parent
# Whole runs, a browser, an emulator: what `make test` leaves to `make test-all`.
SLOW = (
    ROOT / "app" / "test_page.py",
    ROOT / "browser",
    ROOT / "distributed" / "test_training_on_hosts.py",
    ROOT / "pipeline",
    ROOT / "numerics" / "test_operations.py",
    ROOT / "numerics" / "test_pin.py",
)
PROMISES = (ROOT / "pipeline" / "test_contract.py", ROOT / "pipeline" / "test_whole_run.py")


# pytest-xdist hands out a file at a time: the long ones come first, so that all end together.
LONG = [
    f"test_{name}.py"
    for name in (
        *("networks", "experiments_page", "search", "seeds", "kills", "training_on_hosts"),
        *("processors", "sabotage", "recipes", "dvc_usage", "export", "sharing", "whole_run"),
    )
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(name) if (name := item.path.name) in LONG else len(LONG))
    for item in items:
        if item.path not in PROMISES and not {item.path, *item.path.parents}.isdisjoint(SLOW):
            item.add_marker(pytest.mark.slow)


def pytest_configure() -> None:
    """Let Ctrl-C end the commands under test, even where the tests run in the background.

    A shell that has no job control lets what it starts with `&` ignore it, and so its children.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def make_project(tmp_path: Path) -> Callable[..., Project]:
    """Return a function that makes a copy of the project in a new folder."""

    def make(name: str = "project", params: Mapping[str, Any] = SMALL) -> Project:
        return Project(tmp_path / name, params)

    return make


@pytest.fixture
def project(make_project: Callable[..., Project]) -> Project:
    """Return a copy of the project, set to a small run on data that need no download."""
    return make_project()


def _made_once(
    factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]
) -> tuple[Path, Any]:
    """Return a folder that `make` has filled, and what it returned, which JSON can hold.

    pytest-xdist's processes share it: the first to ask makes it.
    """
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder /= name
    folder.mkdir(exist_ok=True)
    returned = folder / "returned.json"
    (folder / "lock").touch()
    with lock(folder / "lock", timeout=math.inf) or nullcontext():
        if not returned.exists():
            returned.write_text(json.dumps(make(folder)))
    return folder, json.loads(returned.read_text())


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> "tuple[Project, Undisturbed]":
    """Return a project after a whole `dvc repro`, measured; for tests to copy, not to touch.

    DVC's cache has another run, of LONGER epochs, too.
    """
    from kill_harness import Undisturbed, outputs, run_undisturbed

    require(Path("/proc/self/status").exists(), "Linux's /proc")

    def make(folder: Path) -> object:
        project = Project(folder / "project")
        measured = run_undisturbed(project)
        for epochs in (LONGER, SMALL["train.epochs"]):
            project.set_params({"train.epochs": epochs})
            project.run("dvc", "repro")
        assert outputs(project) == measured.outputs
        return asdict(measured)

    folder, measured = _made_once(tmp_path_factory, "finished_run", make)
    return Project.at(folder / "project"), Undisturbed(**measured)


@pytest.fixture(scope="session")
def mnist_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, str, str]:
    """Return a clone of what is committed after a whole `dvc repro`; not to touch, either.

    With it, what DVC said on standard output and standard error.
    """
    require(SHARED_MNIST.is_dir(), "a copy of MNIST in ../shared")

    def make(folder: Path) -> object:
        clone = folder / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT.parent), str(clone)], check=True)
        # No data, no model, an empty cache. With what is committed in place, DVC would see nothing
        # to do in the last stages.
        assert not any((clone / name).exists() for name in ("data", "models", ".dvc/cache"))
        for name in ("metrics", "plots"):
            shutil.rmtree(clone / name)
        mirror = {"DATASET_MIRROR": str(SHARED_MNIST)}
        done = Project.at(clone).run("dvc", "repro", env=mirror, timeout=900)
        return done.stdout, done.stderr

    folder, said = _made_once(tmp_path_factory, "mnist_run", make)
    return Project.at(folder / "clone"), *said


@pytest.fixture(scope="module")
def undisturbed(
    finished_run: "tuple[Project, Undisturbed]", tmp_path_factory: pytest.TempPathFactory
) -> "tuple[Project, Undisturbed]":
    """Return a copy of that project for the tests of one file, and what the run left."""
    project, found = finished_run
    return project.copy_to(tmp_path_factory.mktemp("undisturbed") / "project"), found


@pytest.fixture(scope="module")
def finished(
    finished_run: "tuple[Project, Undisturbed]", tmp_path_factory: pytest.TempPathFactory
) -> Project:
    """Return another copy, its run committed; tests read it, or work on a copy of their own."""
    project = finished_run[0].copy_to(tmp_path_factory.mktemp("finished") / "project")
    project.commit("its run")
    return project
