"""Projects with synthetic runs, whose comparison has a known result."""

import io
import json
import os
import signal
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from image_pipeline.__main__ import main
from project import Project, run

TEST_HASH = "0123456789abcdef0123456789abcdef"


def call(project: Project, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run `python -m image_pipeline` in a project's root, in this process, which saves imports."""
    out, err = io.StringIO(), io.StringIO()
    command = ["image-pipeline", *arguments]
    folder, argv = chdir(project.root), patch.object(sys, "argv", command)
    with folder, argv, redirect_stdout(out), redirect_stderr(err):
        status = main()
    if check and status:
        pytest.fail(f"{' '.join(command)}: {status}\n{out.getvalue()}\n{err.getvalue()}")
    return subprocess.CompletedProcess(command, status, out.getvalue(), err.getvalue())


def command_error(project: Project, command: str, *arguments: str, status: int = 1) -> str:
    """Return the one line that a failing command says, without its name and `error`."""
    done = call(project, command, *arguments, check=False)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith(f"{command}: error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr.removeprefix(f"{command}: error: ")


def kill_workers(project: Project) -> None:
    """Kill the workers of DVC's queue, which outlive the command that started them."""
    for path in project.root.glob(".dvc/tmp/exps/celery/dvc-exp-worker-*.pid"):
        with suppress(ProcessLookupError, ValueError):  # it has just ended or started
            os.kill(int(path.read_text()), signal.SIGKILL)


class SyntheticProject(Project):
    """A project of a few files in Git, without stages."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("plots", "metrics", ".dvc"):
            (root / folder).mkdir(parents=True)
        (root / ".dvc" / "config").touch()  # as `dvc init` does, which takes a second
        (root / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
        (root / "dvc.yaml").write_text("stages: {}\n")
        run("git", "init", "--quiet", "-b", "main", cwd=root)

    def record(self, table: pd.DataFrame, test_hash: str = TEST_HASH, **params: Any) -> None:
        """Write the outputs of a run with these predictions, and commit them."""
        table.to_csv(self.root / "plots" / "predictions.csv", index=False, float_format="%.6f")
        classes = pd.DataFrame({"class": sorted({*table["actual"], *table["predicted"]})})
        classes.to_csv(self.root / "plots" / "classes.csv", index=False)
        errors = int((table["actual"] != table["predicted"]).sum())
        metrics = {"accuracy": 1 - errors / len(table), "errors": errors, "loss": 0.5}
        (self.root / "metrics" / "test.json").write_text(json.dumps(metrics))
        of_training = {"epochs": 3, "validation": {"accuracy": metrics["accuracy"]}}
        (self.root / "metrics" / "train.json").write_text(json.dumps(of_training))
        settings = {"train": {"seed": 0, **params}, "evaluate": {"calibration_bins": 15}}
        out = {"path": "data/tensors/test.safetensors", "hash": "md5", "md5": test_hash}
        stages = {
            "tensorize": {"cmd": "python stages/tensorize.py", "outs": [out]},
            "train": {"cmd": "python stages/train.py", "params": {"params.yaml": settings}},
        }
        for name, values in (
            ("params.yaml", settings),
            ("dvc.lock", {"schema": "2.0", "stages": stages}),
        ):
            with (self.root / name).open("w") as file:
                YAML().dump(values, file)
        self.commit("a run")


def predictions(only_b: int, only_a: int, images: int = 1_000) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return predictions of A and B on the same images, so many of which only one gets right."""
    rng = np.random.default_rng(0)
    actual = np.array(["cat", "dog", "NA"])[rng.integers(0, 3, images)]
    other = {"cat": "dog", "dog": "NA", "NA": "cat"}
    wrong = np.array([other[name] for name in actual])
    rows = np.arange(images)
    tables = []
    for missed in (rows < only_b, (rows >= only_b) & (rows < only_b + only_a)):
        confidence = rng.uniform(0.5, 1, images)
        tables.append(
            pd.DataFrame(
                {
                    "actual": actual,
                    "predicted": np.where(missed, wrong, actual),
                    "confidence": confidence,
                    "probability_of_actual": np.where(missed, 1 - confidence, confidence),
                }
            )
        )
    return tables[0], tables[1]
