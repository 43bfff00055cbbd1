"""The libraries that compute are a dependency of every stage; those that develop of none."""

import json
import re
from pathlib import Path

from kill_harness import STAGES, Undisturbed

from project import Project


def upgrade(lock: Path, package: str) -> None:
    """Let the lock name another version of a package."""
    text, count = re.subn(rf"^{package}==\S+", f"{package}==99.0", lock.read_text(), flags=re.M)
    assert count == 1
    lock.write_text(text)


def test_what_computes_reruns_and_what_develops_does_not(
    undisturbed: tuple[Project, Undisturbed],
) -> None:
    project, _ = undisturbed
    before = project.hashes()
    upgrade(project.root / "requirements-dev.lock", "ruff")
    project.set_params({"machine.cores": 1, "machine.checkpoint_every": 0})
    assert "Running stage" not in project.run("dvc", "repro").stdout

    upgrade(project.root / "requirements.lock", "torch")
    changed = json.loads(project.run("dvc", "status", "--json").stdout)
    assert set(changed) == set(STAGES)
    done = project.run("dvc", "repro", "--single-item", "train")
    assert "Running stage 'train'" in done.stdout
    assert "is cached" not in done.stdout
    after = project.hashes()
    del before["plots/curves.png"], after["plots/curves.png"]  # the plot stage draws the final one
    assert after == before
