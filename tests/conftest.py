import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from project import SMALL, Project


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
