"""What README.md and the other pages name exists, and its figures are the committed ones."""

import json
import re
import sys

import pytest
from report import with_table

from image_pipeline.commands.recipe import RECIPES
from project import ROOT, code_blocks, run

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_target_it_names_is_in_the_makefile() -> None:
    named = set(re.findall(r"`make ([a-z-]+)`|^make ([a-z-]+)", README, re.MULTILINE))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    names = {first or second for first, second in named}
    assert {"demo", "test", "repro", "soak", "help"} <= names
    assert names <= targets


def test_every_command_it_names_is_there() -> None:
    modules = set(re.findall(r"python -m image_pipeline ([a-z_]+)", README))
    assert modules
    for name in modules:
        run(sys.executable, "-m", "image_pipeline", name, "--help")
    recipes = set(re.findall(r"python -m image_pipeline recipe ([a-z0-9_]+)", README))
    assert recipes
    assert recipes <= set(RECIPES.names())


def test_every_file_that_a_page_links_exists() -> None:
    linked = [
        page.parent / name
        for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"))
        for name in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    ]
    assert len(linked) > 20
    assert [path for path in linked if not path.exists()] == []


def test_every_file_it_lists_exists() -> None:
    tree = README.split("```text\n")[1].split("```")[0].splitlines()
    listed = {line.split()[0] for line in tree if not line.startswith(" ")}
    made = {"audit/", "data/", "demo/"}  # by running the pipeline
    assert all((ROOT / name).exists() for name in listed - made)
    modules = [line.split()[0] for line in tree if line.startswith(" ")]
    assert all((ROOT / "src" / "image_pipeline" / name).exists() for name in modules)


@pytest.mark.parametrize(
    ("page", "number", "path"),
    [("data-sets.md", 1, "datasets/leaves.py"), ("networks.md", 0, "models/mixer.py")],
)
def test_the_examples_are_in_the_projects_style(page: str, number: int, path: str) -> None:
    example = code_blocks((ROOT / "docs" / page).read_text(encoding="utf-8"), "python")[number]
    for command in (["format", "--check"], ["check", "--ignore", "D102"]):
        name = f"src/image_pipeline/{path}"
        run("ruff", *command, "--stdin-filename", name, "-", input=example, cwd=ROOT)


def test_its_table_of_speed_is_made_of_the_benchmarks_results() -> None:
    results = json.loads((ROOT / "benchmarks" / "results.json").read_text())
    assert with_table(README, results) == README
    assert "numerics: portable" in README.split("<!-- figures -->")[1]


def test_its_results_are_the_committed_ones() -> None:
    metrics = json.loads((ROOT / "metrics" / "test.json").read_text())
    low, high = metrics["accuracy_interval_95"]
    assert (
        f"**{metrics['accuracy']:.2%}** ({metrics['errors']} errors in {metrics['images']:,}; "
        f"95% interval {low:.2%} to {high:.2%})"
    ) in README
