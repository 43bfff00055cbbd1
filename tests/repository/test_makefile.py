"""What the Makefile says of itself, and what it needs."""

import re
import subprocess
from pathlib import Path

from project import ROOT, Project, run

MAKEFILE = (ROOT / "Makefile").read_text()
PROMISED = {"help", "setup", "demo", "repro", "app", "test", "test-all", "lint", "bench"}
TARGETS = set(" ".join(re.findall(r"^\.PHONY:(.*)$", MAKEFILE, re.MULTILINE)).split())


def make(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return run("make", "--no-print-directory", *arguments, cwd=cwd, check=False)


def test_help_says_what_every_target_does() -> None:
    done = make()
    assert done.returncode == 0
    listed = dict(re.findall(r"^make (\S+) +(\S.+)$", done.stdout, re.MULTILINE))
    assert set(listed) == TARGETS
    assert set(listed) >= PROMISED
    assert len(done.stdout.splitlines()) == len(listed)
    assert make("help").stdout == done.stdout


def test_every_target_sets_up_what_it_needs() -> None:
    for name in TARGETS - {"help"}:
        rule = re.search(rf"^{name}: ([^#\n]*)##", MAKEFILE, re.MULTILINE)
        assert rule, name
        done = make("--dry-run", "--always-make", name)
        assert done.returncode == 0, done.stderr
        assert "pip sync" in done.stdout, name


def test_too_old_a_python_is_named_before_anything_is_made(tmp_path: Path) -> None:
    old = tmp_path / "python3.10"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo "Python 3.10.13"\nexit 1\n')
    old.chmod(0o755)
    project = Project(tmp_path / "project")
    done = make("setup", f"PYTHON={old}", cwd=project.root)
    assert done.returncode == 2
    assert f"Python 3.11 to 3.13 is needed, {old} is Python 3.10.13" in done.stdout
    assert not (project.root / ".venv").exists()
