"""`python -m image_pipeline verify` finds results that were changed.

An unchanged commit is verified in test_experiments_page.py.
"""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from image_pipeline.experiments import clean_checkout
from image_pipeline.experiments.verification import Check, check_inputs
from project import Project, child_processes

VERIFY = (sys.executable, "-m", "image_pipeline", "verify")


@pytest.fixture
def copy(finished: Project, tmp_path: Path) -> Project:
    return finished.clone_to(tmp_path / "copy")


def verify(project: Project, temporary: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    temporary.mkdir()
    env = {"TMPDIR": str(temporary)}
    done = project.run(*VERIFY, *arguments, env=env, check=False, timeout=600)
    assert list(temporary.iterdir()) == []
    assert "Traceback" not in done.stderr
    return done


def problems(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Return the reported problems by name."""
    lines = [line for line in done.stdout.splitlines() if line.startswith("DIFFERS  ")]
    assert done.returncode == bool(lines)
    return dict(line.removeprefix("DIFFERS  ").split(": ", 1) for line in lines)


def edit_lock(project: Project, stage: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Edit a stage in dvc.lock."""
    path, yaml = project.root / "dvc.lock", YAML()
    lock = yaml.load(path)
    change(lock["stages"][stage])
    yaml.dump(lock, path)


@pytest.mark.slow
def test_changed_metric_swapped_picture_and_other_model(copy: Project, tmp_path: Path) -> None:
    path = copy.root / "metrics" / "test.json"
    metrics = json.loads(path.read_text())
    text = path.read_text()
    path.write_text(text.replace(f'"errors": {metrics["errors"]}', '"errors": 1'))
    assert path.read_text() != text
    plots = copy.root / "plots"
    shutil.copy(plots / "samples.png", plots / "curves.png")

    def swap_model(train: dict[str, Any]) -> None:
        [model] = [out for out in train["outs"] if out["path"] == "models/model.safetensors"]
        model["md5"] = "0" * 32

    edit_lock(copy, "train", swap_model)
    copy.commit("better and nicer")
    found = problems(verify(copy, tmp_path / "temporary", "HEAD"))
    assert found.pop("models/model.safetensors").startswith("0000000 in dvc.lock, ")
    problem = "the file in Git differs from the run's"
    of_metrics = f"{problem} (errors: 1 in Git, {metrics['errors']} from the run)"
    assert found == {"metrics/test.json": of_metrics, "plots/curves.png": problem}


@pytest.mark.slow
def test_lock_of_another_seed_and_params_edited_after_the_run(
    copy: Project, tmp_path: Path
) -> None:
    edit_lock(copy, "train", lambda train: train["params"]["params.yaml"]["train"].update(seed=7))
    copy.set_params({"train.epochs": 2, "machine.cores": 1})
    copy.commit("fewer epochs")
    found = problems(verify(copy, tmp_path / "temporary", "--stage", "train"))
    assert found["train.seed"] == "7 in dvc.lock, 0 in params.yaml"
    assert found["train.epochs"] == "3 in dvc.lock, 2 in params.yaml"
    assert {"models/model.safetensors", "metrics/train.json", "plots/history.csv"} < set(found)
    assert "machine.cores" not in found


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_behind(copy: Project, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with subprocess.Popen(
        VERIFY,
        cwd=copy.root,
        env=copy.environment({"TMPDIR": str(temporary)}),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stderr
        seen = ""
        while "Running stage 'train'" not in seen:
            line = process.stderr.readline()
            assert line, seen
            seen += line
        time.sleep(1)
        children = child_processes(process.pid)
        assert children
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(60) == 130
    assert rest.endswith("verify: error: interrupted\n")
    assert "Traceback" not in rest
    assert list(temporary.iterdir()) == []
    assert not any(Path(f"/proc/{child}").exists() for child in children)


@pytest.mark.slow
def test_failed_stage_is_named(copy: Project, tmp_path: Path) -> None:
    (copy.root / "stages" / "tensorize.py").write_text("raise SystemExit(3)\n")
    copy.commit("broken")
    done = verify(copy, tmp_path / "temporary")
    assert done.returncode == 1
    assert (
        ": tensorize failed (its output is above), so its results cannot be verified" in done.stderr
    )


def test_invalid_revisions_and_stages(project: Project, tmp_path: Path) -> None:
    for number, (arguments, said) in enumerate(
        {
            ("workspace",): "`workspace` is not a commit; commit it, then verify HEAD",
            ("no-such",): "unknown Git revision 'no-such'; ",
            ("HEAD", "--stage", "fly"): "--stage fly: not in the dvc.lock of ",
        }.items()
    ):
        done = verify(project, tmp_path / f"temporary-{number}", *arguments)
        assert done.returncode == 2
        assert done.stderr.startswith(f"verify: error: {said}")
        assert done.stderr.count("\n") == 1
    (project.root / "dvc.lock").unlink()
    project.commit("nothing ran")
    done = verify(project, tmp_path / "temporary")
    assert done.stderr.endswith(" has no dvc.lock with a run in it; nothing to verify\n")


def test_lock_of_other_code() -> None:
    def stages(md5: str) -> dict[str, object]:
        deps = [{"path": "src/a", "md5": md5}, {"path": "data/raw", "md5": md5}]
        return {"train": {"deps": deps, "outs": [{"path": "data/raw", "md5": md5}]}}

    found = list(check_inputs(stages("a" * 32), stages("b" * 32)))
    assert found == [Check("src/a", "aaaaaaa in dvc.lock, bbbbbbb in the commit")]


def test_mirror_is_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for given, passed in (
        ("mirror", str(tmp_path / "mirror")),
        ("https://example.com/m", "https://example.com/m"),
    ):
        monkeypatch.setenv("DATASET_MIRROR", given)
        assert clean_checkout.environment(tmp_path / "clone", tmp_path)["DATASET_MIRROR"] == passed


def test_mismatched_packages_are_listed(tmp_path: Path) -> None:
    (tmp_path / "requirements.lock").write_text(
        "numpy==0.1 \\\n    --hash=sha256:00\nno-such-package==1.0 \\\nnumpy==0.2 ; never\n"
    )
    [said] = clean_checkout.mismatched_packages(tmp_path)
    assert said.startswith("numpy ")
    assert said.endswith(" instead of 0.1")
