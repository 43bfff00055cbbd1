"""`make demo` runs in a copy, without a Git identity, and leaves the checkout as it was."""

import json
import os
import re
from pathlib import Path

from ruamel.yaml import YAML

from project import Project


def test_the_demo_runs_what_is_in_the_working_tree_and_touches_nothing(
    project: Project, tmp_path: Path
) -> None:
    note = project.root / "src/image_pipeline/not_committed.py"
    note.write_text('"""A change that is not committed."""\n')
    status, outputs = project.git_status(), project.hashes()
    (project.root / "demo").mkdir()
    (project.root / "demo/left_over").touch()
    (tmp_path / "home").mkdir()
    nobody = {
        "HOME": str(tmp_path / "home"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "DATASET_MIRROR": "",
    }
    done = project.run("python", "-m", "image_pipeline.commands.demo", env=nobody)

    demo = project.root / "demo"
    metrics = json.loads((demo / "metrics/test.json").read_text())
    *_, accuracy, where = done.stdout.splitlines()
    assert re.fullmatch(
        rf"demo: final test accuracy {metrics['accuracy']:.2%} "
        rf"\({metrics['errors']} errors in 360 images\)",
        accuracy,
    )
    assert where.startswith("demo: figures are in demo/plots/")
    named = where.rsplit(" ", 1)[1]
    assert "{plot_divs}" not in (project.root / named).read_text(encoding="utf-8")
    assert (demo / "plots/confusion_matrix.png").stat().st_size > 1000
    params = YAML(typ="safe").load((demo / "params.yaml").read_text())
    assert params["download"]["dataset"] == "digits"
    assert params["train"]["epochs"] == 3  # the working tree's

    assert (demo / "src/image_pipeline/not_committed.py").exists()
    assert not (demo / "left_over").exists()
    assert project.git_status() == status
    assert project.hashes() == outputs
