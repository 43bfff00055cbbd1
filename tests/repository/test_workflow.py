""".github/workflows/pipeline.yaml: what it runs, run here as it stands."""

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from project import LONGER, ROOT, Project, require, run

PATH = ROOT / ".github" / "workflows" / "pipeline.yaml"
WORKFLOW: dict[str, Any] = YAML(typ="safe").load(PATH)
CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def lines_of(job: str) -> list[str]:
    return [step["run"] for step in WORKFLOW["jobs"][job]["steps"] if "run" in step]


def test_the_tests_are_what_ci_runs_here() -> None:
    """So they are run in a clean checkout with every change, and not once more below."""
    assert lines_of("test") == ["make lint", "make test"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search("^make lint$", CI, re.MULTILINE)
    assert re.search("^make test-all ", CI, re.MULTILINE)
    assert "\ntest-all: test " in makefile


@pytest.fixture
def clone(finished: Project, tmp_path: Path) -> Project:
    """Return a clean clone of a project whose branch has other results than `origin/main`."""
    project = finished
    project.run("git", "branch", "-M", "main")
    project.run("git", "checkout", "--quiet", "-b", "longer")
    project.set_params({"train.epochs": LONGER})
    project.run("dvc", "repro")
    project.commit("a longer run")
    clone = project.clone_to(tmp_path / "clone")
    shutil.copytree(project.root / ".dvc" / "cache", clone.root / ".dvc" / "cache")  # actions/cache
    # `make setup` takes a minute, and CI runs it here, too: have it find its work done.
    venv = clone.root / ".venv"
    venv.mkdir()
    for path in Path(sys.prefix).iterdir():
        if path.name != "complete":
            (venv / path.name).symlink_to(path)
    (venv / "complete").touch()
    clone.run("make", "--question", "setup")
    return clone


@pytest.mark.slow
def test_the_report(clone: Project, tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    commit = clone.run("git", "rev-parse", "HEAD").stdout.strip()
    event = {
        "BASE": "origin/main",
        "COMMIT": commit,
        "GITHUB_SERVER_URL": "https://github.example",
        "GITHUB_REPOSITORY": "me/mine",
        "GITHUB_STEP_SUMMARY": str(summary),
    }
    assert WORKFLOW["jobs"]["report"]["env"].keys() < event.keys()
    environment = {
        name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ
    } | {"PYTHONPATH": str(clone.root / "src")}
    said = []
    for line in lines_of("report"):
        bash = ("bash", "--noprofile", "--norc", "-eo", "pipefail", "-c")  # as GitHub does
        done = run(*bash, line, cwd=clone.root, env=environment | event, timeout=900)
        said.append(done.stdout)

    report = summary.read_text(encoding="utf-8")
    assert report.startswith("### workspace (B) against origin/main")
    assert "- params train.epochs: 3 -\\> 4" in report
    pictures = re.findall(rf"\]\(https://github.example/me/mine/raw/{commit}/(\S+)\)", report)
    assert len(pictures) == 3
    assert all((clone.root / name).is_file() for name in pictures)
    assert "came out the same" in said[-1]
    assert clone.git_status() == "?? report.md\n"


def test_the_comment_is_written_once_and_then_changed() -> None:
    """Its script is GitHub's to run; what it reads and calls is checked here."""
    require(shutil.which("node"), "node")
    [step] = [s for s in WORKFLOW["jobs"]["report"]["steps"] if "script" in s.get("with", {})]
    script = step["with"]["script"]
    program = f"""
    const calls = [];
    const call = name => async values => calls.push([name, values.body, values.comment_id]);
    const issues = {{createComment: call('create'), updateComment: call('update')}};
    const context = {{repo: {{owner: 'me', repo: 'mine'}}, issue: {{number: 7}}}};
    let there = [{{id: 1, body: 'hello'}}];
    const github = {{rest: {{issues}}, paginate: async () => there}};
    const require = name => ({{readFileSync: () => 'the report'}});
    const run = async () => {{ {script} }};
    (async () => {{
      await run();
      there = there.concat({{id: 2, body: calls[0][1]}});
      await run();
      console.log(JSON.stringify(calls));
    }})();
    """
    done = run("node", "-e", program)
    (first, body, _), (second, _, changed) = json.loads(done.stdout)
    assert (first, second, changed) == ("create", "update", 2)
    assert body.endswith("the report")
