import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from project import SMALL, Project, require

if TYPE_CHECKING:
    from kill_harness import Undisturbed

ROOT = Path(__file__).parent
# Whole runs, a browser, an emulator: what `make test` leaves to `make test-all`.
SLOW = (
    ROOT / "app" / "test_page.py",
    ROOT / "browser",
    ROOT / "pipeline",
    ROOT / "numerics" / "test_operations.py",
    ROOT / "numerics" / "test_pin.py",
)
PROMISES = (ROOT / "pipeline" / "test_contract.py", ROOT / "pipeline" / "test_whole_run.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
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


@pytest.fixture(scope="session")
def finished_run(
    tmp_path_factory: pytest.TempPathFactory,
) -> "tuple[Project, Undisturbed]":
    """Return a project after a whole `dvc repro`, measured; for tests to copy, not to touch."""
    from kill_harness import QUICK, run_undisturbed

    require(Path("/proc/self/status").exists(), "Linux's /proc")
    project = Project(tmp_path_factory.mktemp("finished_run") / "project", QUICK)
    return project, run_undisturbed(project)


@pytest.fixture(scope="module")
def undisturbed(
    finished_run: "tuple[Project, Undisturbed]", tmp_path_factory: pytest.TempPathFactory
) -> "tuple[Project, Undisturbed]":
    """Return a copy of that project for the tests of one file, and what the run left."""
    project, found = finished_run
    return project.copy_to(tmp_path_factory.mktemp("undisturbed") / "project"), found
