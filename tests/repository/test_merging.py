"""Branches that both ran are merged by the words of docs/sharing.md."""

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from experiments.test_sharing import MERGE, MERGED
from project import IDENTITY, LONGER, ROOT, Project, run

CONFLICT = re.compile(r"^(<{7}|={7}|>{7})( .*)?$", re.MULTILINE)


def test_what_a_run_makes_is_not_merged_line_by_line() -> None:
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    made = ["dvc.lock"]
    for stage in stages.values():
        for out in (*stage.get("metrics", []), *stage.get("plots", [])):
            made += [name for name, options in out.items() if options.get("cache") is False]
    assert len(made) > 15
    done = run("git", "check-attr", "merge", *made, "params.yaml", "dvc.yaml", cwd=ROOT)
    said = dict(line.split(": merge: ") for line in done.stdout.splitlines())
    assert {said.pop("params.yaml"), said.pop("dvc.yaml")} == {"unspecified"}
    assert said == dict.fromkeys(made, "unset")


@pytest.mark.slow
def test_two_branches_that_ran_with_other_params(finished: Project, tmp_path: Path) -> None:
    project = finished.copy_to(tmp_path / "project")
    project.run("git", "branch", "-M", "main")
    project.run("git", "checkout", "--quiet", "-b", "longer")
    project.set_params({"train.epochs": LONGER})
    project.run("dvc", "repro")
    project.commit("longer")
    project.run("git", "checkout", "--quiet", "main")
    project.set_params({"train.epochs": 2, "plot.dpi": 60})
    project.run("dvc", "repro")
    project.commit("shorter, with larger pictures")
    committed = project.hashes()

    done = project.run("bash", "-c", MERGE, env=IDENTITY, check=False)
    assert done.returncode == 1
    conflicts = done.stdout.count("CONFLICT")
    assert conflicts > 10
    assert project.hashes() == committed  # nothing that a run made has changed
    tracked = project.run("git", "grep", "--name-only", "--text", "-E", "^<{7} ").stdout
    assert tracked == "params.yaml\n"

    # "If params.yaml or code conflict, too, edit them": the other branch's epochs, these pictures.
    path = project.root / "params.yaml"
    text = CONFLICT.sub("", path.read_text(encoding="utf-8"))
    path.write_text(re.sub("^  epochs: 2 .*\n", "", text, flags=re.MULTILINE), encoding="utf-8")
    done = project.run("bash", "-c", f"set -e\n{MERGED}", env=IDENTITY)
    assert "Stage 'train' is cached" in done.stdout  # as it ran on the other branch
    assert project.git_status() == ""
    assert len(project.run("git", "rev-parse", "HEAD^@").stdout.split()) == 2
    assert "up to date" in project.run("dvc", "status").stdout
    merged = project.hashes()
    model = "models/model.safetensors"
    project.run("git", "checkout", "--quiet", "longer")
    project.run("dvc", "checkout", "--quiet")
    assert merged[model] == project.hashes()[model] != committed[model]
    assert merged["plots/samples.png"] == committed["plots/samples.png"]
