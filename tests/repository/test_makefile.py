"""What the Makefile says of itself, and what its lock refuses."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from project import ROOT, Project, require, run

MAKEFILE = (ROOT / "Makefile").read_text()
LOCK = ROOT / "requirements-dev.lock"
PROMISED = {"help", "setup", "demo", "repro", "app", "test", "test-all", "lint", "bench"}
UNREACHABLE = ("error sending request", "failed to fetch", "dns error", "connection", "timed out")
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


def install(lock: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """Install a lock into a folder, as `make setup` does into .venv."""
    command = ("uv", "pip", "install", "--no-cache", "--no-deps", "--require-hashes")
    where = ("--python", sys.executable, "--target", target, "--requirement", lock)
    return run(*command, *where, check=False, env={**os.environ, "UV_SYSTEM_CERTS": "true"})


@pytest.mark.slow  # it asks a package registry
def test_a_file_with_another_hash_is_refused(tmp_path: Path) -> None:
    joined = LOCK.read_text().replace("\\\n", " ")
    (small,) = [line for line in joined.splitlines() if line.startswith("iniconfig==")]
    right, wrong = tmp_path / "right.lock", tmp_path / "wrong.lock"
    right.write_text(f"{small}\n")
    wrong.write_text(re.sub(r"(sha256:)[0-9a-f]{8}", r"\g<1>00000000", small) + "\n")

    done = install(right, tmp_path / "right")
    offline = any(word in done.stderr.lower() for word in UNREACHABLE)
    require(done.returncode == 0 or not offline, "a package registry")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "right/iniconfig/__init__.py").exists()

    done = install(wrong, tmp_path / "wrong")
    assert done.returncode != 0
    assert "hash mismatch" in done.stderr.lower()
    assert not (tmp_path / "wrong/iniconfig").exists()
