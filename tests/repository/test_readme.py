"""What the README names exists, and its figures are the committed ones."""

import json
import re
import sys

from report import with_table

from image_pipeline.commands.recipe import RECIPES
from project import ROOT, run

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


def test_every_file_it_links_or_lists_exists() -> None:
    linked = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(linked) > 5
    tree = README.split("```text\n")[1].split("```")[0].splitlines()
    listed = [line.split()[0] for line in tree if not line.startswith(" ")]
    made = {"audit/", "data/", "demo/"}  # by running the pipeline
    missing = [name for name in (*linked, *listed) if not (ROOT / name).exists()]
    assert set(missing) <= made
    modules = [line.split()[0] for line in tree if line.startswith(" ")]
    assert all((ROOT / "src" / "image_pipeline" / name).exists() for name in modules)


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
