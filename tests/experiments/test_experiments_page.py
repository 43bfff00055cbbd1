"""docs/experiments.md: its commands run as copied."""

import json
import re
import sys
from pathlib import Path

import pytest

from project import IDENTITY, ROOT, Project, code_blocks

BLOCKS = code_blocks((ROOT / "docs" / "experiments.md").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_commands(finished: Project, tmp_path: Path) -> None:
    project = finished
    project.run("dvc", "remote", "add", "--default", "storage", str(tmp_path / "storage"))
    project.commit("a remote")
    compare, seeds, search, verify, against, cache = (f"set -e\n{block}" for block in BLOCKS)

    done = project.run("bash", "-c", compare)
    assert "train.epochs: 3 -> 4" in done.stdout
    found = json.loads((project.root / "report.json").read_text())
    assert found["changed"]["params"] == [{"name": "train.epochs", "first": "3", "second": "4"}]
    assert sum(map(len, found["changed"].values())) == 1
    assert found["notes"] == []
    assert f"changed.png shows {found['b_finds']} of {found['b_finds']} images" in done.stderr
    for letter in "ab":
        revision = found[letter].split("(")[1].rstrip(")")
        metrics = json.loads(project.run("git", "show", f"{revision}:metrics/test.json").stdout)
        for name in ("accuracy", "errors", "loss", "macro_f1", "expected_calibration_error"):
            assert found["metrics"][name][letter] == pytest.approx(metrics[name], abs=2e-6)
    for name in ("changed.png", "report.md", "report.json"):
        assert (project.root / name).stat().st_size > 100
        (project.root / name).unlink()
    project.run("git", "checkout", "--quiet", ".")

    done = project.run("bash", "-c", seeds, timeout=900)
    assert done.stdout.count("3 seeds: test accuracy ") == 2
    assert " points over 3 seeds, " in done.stdout
    assert (project.root / "curves.png").stat().st_size > 10_000
    (project.root / "curves.png").unlink()
    # After `exp apply` Git takes changed files for unchanged.
    project.run("git", "read-tree", "HEAD")
    project.run("git", "checkout", "--quiet", ".")
    again = project.run(sys.executable, "-m", "image_pipeline", "seeds", "3", "--json")
    assert "all 3 had been run before" in again.stderr
    runs = json.loads(again.stdout)["runs"]
    committed = json.loads((project.root / "metrics/test.json").read_text())
    assert (runs["0"]["accuracy"], runs["0"]["loss"]) == (committed["accuracy"], committed["loss"])
    assert len({run["loss"] for run in runs.values()}) == 3
    assert project.git_status() == ""

    done = project.run("bash", "-c", search, timeout=900)
    assert "6 trials: " in done.stdout
    assert (project.root / "matters.png").stat().st_size > 5_000
    (project.root / "matters.png").unlink()

    # The commit is verified, and a changed workspace is left as it is.
    project.set_params({"train.epochs": 1})
    (project.root / "metrics/test.json").write_text("{}")
    before = project.git_status()
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    done = project.run("bash", "-c", verify, env={"TMPDIR": str(temporary)}, timeout=900)
    assert done.stdout.count(" came out the same\n") == 2
    assert "DIFFERS" not in done.stdout
    for name in ("data/raw", "models/model.safetensors", "metrics/test.json", "plots/samples.png"):
        assert f"ok       {name}\n" in done.stdout
    assert "Running stage 'train'" in done.stderr
    assert list(temporary.iterdir()) == []
    assert project.git_status() == before
    project.run("git", "checkout", "--quiet", ".")

    same = " are the same: params, code, data and all "
    assert project.run("bash", "-c", against).stdout.count(same) == 2
    (project.root / "theirs.lock").unlink()

    project.run("bash", "-c", cache, env=IDENTITY)
    assert "predictions" not in project.run("git", "ls-files", "plots").stdout
    assert project.git_status() == ""
    clone = project.clone_to(tmp_path / "clone")
    compared = ("python", "-m", "image_pipeline", "compare", "HEAD", "workspace")
    done = clone.run(*compared, check=False)
    [command] = re.findall(r"; run `(dvc pull .*)`\n", done.stderr)
    clone.run("bash", "-c", command, env={"GIT_CEILING_DIRECTORIES": str(tmp_path)})
    assert "right on the same images, of all 360 images" in clone.run(*compared).stdout


def test_the_line_it_deletes_exists() -> None:
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    assert "- plots/predictions.csv:\n          cache: false\n" in text
    assert text.count("- plots/predictions.csv:\n") == 1
