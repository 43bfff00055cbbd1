"""dvc.lock, metrics/ and plots/ in Git are what the code in Git makes of MNIST, to the byte."""

import json

from kill_harness import STAGES

from project import ROOT, Project


def test_the_committed_run_is_what_the_code_makes(mnist_run: tuple[Project, str, str]) -> None:
    clone, said, warned = mnist_run
    for stage in STAGES:
        assert f"Running stage '{stage}'" in said
    assert "WARNING" not in warned
    assert clone.git_status() == ""


def test_the_committed_model_is_good_enough() -> None:
    metrics = json.loads((ROOT / "metrics" / "test.json").read_text())
    assert metrics["images"] == 10_000
    assert metrics["accuracy"] >= 0.987
    assert metrics["errors"] == round((1 - metrics["accuracy"]) * 10_000)
