"""dvc.lock, metrics/ and plots/ in Git are what the code in Git makes of MNIST, to the byte."""

import json
import shutil
import subprocess
from pathlib import Path

from project import ROOT, SHARED_MNIST, Project, require


def test_the_committed_run_is_what_the_code_makes(tmp_path: Path) -> None:
    require(SHARED_MNIST.is_dir(), "a copy of MNIST in ../shared")
    clone = Clone(tmp_path / "clone")
    # With what is committed in place, DVC would see nothing to do in the last two stages.
    for folder in ("metrics", "plots"):
        shutil.rmtree(clone.root / folder)
    mirror = {"DATASET_MIRROR": str(SHARED_MNIST)}
    first = clone.run("dvc", "repro", env=mirror, timeout=900)
    for stage in ("download", "tensorize", "train", "evaluate", "plot"):
        assert f"Running stage '{stage}'" in first.stdout
    assert "WARNING" not in first.stderr
    assert clone.git_status() == ""

    second = clone.run("dvc", "repro", env=mirror)
    assert "Running stage" not in second.stdout
    assert "Data and pipelines are up to date." in second.stdout


def test_the_committed_model_is_good_enough() -> None:
    metrics = json.loads((ROOT / "metrics" / "test.json").read_text())
    assert metrics["images"] == 10_000
    assert metrics["accuracy"] >= 0.987
    assert metrics["errors"] == round((1 - metrics["accuracy"]) * 10_000)


class Clone(Project):
    """What is committed, as somebody else gets it: no data, no model, an empty cache."""

    def __init__(self, root: Path) -> None:
        self.root = root
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(root)], check=True)
        assert not (root / "data").exists()
        assert not (root / ".dvc" / "cache").exists()
