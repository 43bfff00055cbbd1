"""`python -m image_pipeline compare`, as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.experiment_projects import SyntheticProject, call, command_error, predictions
from image_pipeline.experiments.changes import flatten
from project import Project


@pytest.fixture
def synthetic(tmp_path: Path) -> SyntheticProject:
    """Return a project with two runs: only the second gets 41 images right, only the first 35."""
    project = SyntheticProject(tmp_path / "project")
    first, second = predictions(41, 35)
    project.record(first)
    project.record(second, seed=1)
    return project


def compare(
    project: Project, *arguments: str, check: bool = True
) -> subprocess.CompletedProcess[str]:
    return call(project, "compare", *arguments, check=check)


def error(project: Project, *arguments: str, status: int = 1) -> str:
    return command_error(project, "compare", *arguments, status=status)


def test_verdict_and_numbers(synthetic: SyntheticProject) -> None:
    done = compare(synthetic, "HEAD~1", "HEAD")
    assert (
        "No significant difference: of 1,000 images, only B gets 41 right and only A 35 "
        "(p = 0.57).\n"
    ) in done.stdout
    assert "\naccuracy                    95.90%  96.50%   +0.60%" in done.stdout
    assert "\nerrors                          41      35       -6" in done.stdout
    assert "with 80% power takes about 17,000 test images." in done.stdout
    assert "  params       train.seed: 0 -> 1\n" in done.stdout
    assert "\nNA " in done.stdout  # a class name, not a missing value


def test_nested_blocks_become_dotted_keys() -> None:
    block = {"a": 1, "b": {"c": {"d": [2]}, "e": {}}, "f": {}}
    assert flatten(block) == {"a": 1, "b.c.d": [2], "b.e": {}, "f": {}}


def test_without_git_there_is_a_one_line_error(
    synthetic: SyntheticProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(synthetic.root))
    assert "Git is not installed" in error(synthetic, status=2)


def test_json_is_complete(synthetic: SyntheticProject) -> None:
    values = json.loads(compare(synthetic, "HEAD~1", "HEAD", "--json").stdout)
    assert (values["b_finds"], values["b_misses"], values["images"]) == (41, 35, 1_000)
    assert values["p"] == pytest.approx(0.566573, abs=1e-6)
    assert values["metrics"]["errors"]["difference"] == -6
    low, high = values["metrics"]["loss"]["interval_95"]
    assert low < values["metrics"]["loss"]["difference"] < high
    assert [each["name"] for each in values["classes"]] == ["NA", "cat", "dog"]
    assert sum(each["won"] for each in values["classes"]) == 41
    assert all(each["p_holm"] >= each["p"] for each in values["classes"])
    assert values["changed"]["params"] == [{"name": "train.seed", "first": "0", "second": "1"}]
    assert any("have" in note or "has" in note for note in values["notes"]) is False


def test_names_are_escaped_in_markdown(synthetic: SyntheticProject) -> None:
    synthetic.run("git", "branch", "a|b`c")
    text = compare(synthetic, "HEAD~1", "a|b`c", "--markdown").stdout
    assert text.startswith("### a\\|b\\`c (")
    assert "\n| accuracy | 95.90% | 96.50% | +0.60% |" in text
    assert "**No significant difference: of 1,000 images" in text


def test_significant_difference(tmp_path: Path) -> None:
    project = SyntheticProject(tmp_path / "project")
    for table in predictions(60, 20):
        project.record(table)
    assert "B is significantly better: of 1,000 images, " in compare(project, "HEAD~1").stdout
    assert "A is significantly better: " in compare(project, "HEAD", "HEAD~1").stdout
    assert "A and B are right on the same images, of all 1,000" in compare(project).stdout
    assert "nothing that dvc.lock records" in compare(project).stdout


@pytest.mark.slow
def test_any_name_that_dvc_knows(synthetic: SyntheticProject) -> None:
    synthetic.run("git", "tag", "old", "HEAD~1")
    synthetic.run("git", "branch", "try", "HEAD~1")
    commit = synthetic.run("git", "rev-parse", "HEAD~1").stdout.strip()
    synthetic.run("git", "update-ref", f"refs/exps/{commit[:2]}/{commit[2:]}/brisk-hare", commit)
    for name in ("old", "try", commit[:8], "brisk-hare", "refs/tags/old"):
        done = compare(synthetic, name)
        assert done.stdout.splitlines()[1] == "B  workspace"
        assert "only B gets 41 right" in done.stdout
    assert error(synthetic, "no-such", status=2) == (
        "unknown Git revision 'no-such'; `git log --oneline --all` lists commits, "
        "`dvc exp list --all-commits` experiments\n"
    )


def test_different_test_images_are_an_error(synthetic: SyntheticProject) -> None:
    first, _ = predictions(0, 0)
    synthetic.record(first, test_hash="f" * 32)
    said = "have different test splits (data/tensors/test.safetensors is 0123456 in one "
    assert said in error(synthetic, "HEAD~1", "HEAD")
    synthetic.record(first.iloc[:-1])
    assert "(1000 rows of plots/predictions.csv in one and 999 in the" in error(synthetic, "HEAD~2")
    first.loc[7, "actual"] = "cat" if first["actual"][7] != "cat" else "dog"
    synthetic.record(first)
    assert "(row 8 of plots/predictions.csv is of class '" in error(synthetic, "HEAD~3")


def test_missing_files_are_named(synthetic: SyntheticProject) -> None:
    table = synthetic.root / "plots" / "predictions.csv"
    table.write_text("actual,predicted\ncat,dog\n")
    assert "plots/predictions.csv in workspace: not a table of predictions (" in error(synthetic)
    table.unlink()
    assert "neither in workspace nor in its dvc.lock; run `dvc repro`" in error(synthetic)
    (synthetic.root / "dvc.lock").unlink()
    assert "dvc.lock: not in workspace; there is no run to read" in error(synthetic)
    (synthetic.root / "dvc.yaml").unlink()
    assert "no dvc.yaml here; run from the root of a project\n" in error(synthetic, status=2)


@pytest.mark.slow
def test_predictions_in_dvcs_cache(synthetic: SyntheticProject) -> None:
    """They are read from there; if they are missing, the error names the `dvc pull`."""
    lock = synthetic.root / "dvc.lock"
    table = synthetic.root / "plots" / "predictions.csv"
    digest = "a" * 30 + "bc"
    cached = synthetic.root / ".dvc" / "cache" / "files" / "md5" / digest[:2] / digest[2:]
    cached.parent.mkdir(parents=True)
    table.rename(cached)
    out = f"    outs:\n    - path: plots/predictions.csv\n      md5: {digest}\n"
    lock.write_text(f"{lock.read_text()}  evaluate:\n    cmd: x\n{out}")
    synthetic.commit("predictions in the cache")
    assert "only B gets 41 right" in compare(synthetic, "HEAD~2", "HEAD").stdout
    cached.unlink()
    assert error(synthetic).endswith(
        "keeps it in DVC's cache, which does not have it; "
        "run `dvc pull --all-commits plots/predictions.csv`\n"
    )
    assert error(synthetic, "HEAD~2").endswith("run `dvc pull plots/predictions.csv`\n")


def test_old_runs_without_probabilities(synthetic: SyntheticProject) -> None:
    _, second = predictions(41, 35)
    synthetic.record(second.drop(columns="probability_of_actual"))
    text = compare(synthetic, "HEAD~2", "HEAD").stdout
    assert "\nloss                        0.5000  0.5000" in text
    assert "note: B: its plots/predictions.csv has no probability of the actual class" in text


def test_params_changed_since_the_run_are_noted(synthetic: SyntheticProject) -> None:
    synthetic.set_params({"train.seed": 9})
    note = "note: B: the results are from train.seed = 1, but params.yaml has 9; run `dvc repro`"
    assert note in compare(synthetic).stdout


# Runs the command as the only child of a process, to measure it.
MEASURED = """
import json, resource, subprocess, sys
subprocess.run([sys.executable, "-m", "image_pipeline", *sys.argv[1:]], check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""


@pytest.mark.parametrize("images", [10_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_time_and_memory(tmp_path: Path, images: int) -> None:
    """CPU seconds at 10,000 images, half a minute and 1 GB at a million.

    The limits leave room for a busy machine, where the same work takes more CPU time.
    """
    project = SyntheticProject(tmp_path / "project")
    for table in predictions(images // 100, images // 110, images):
        project.record(table)
    done = project.run(sys.executable, "-c", MEASURED, "compare", "HEAD~1", "HEAD")
    seconds, kilobytes = json.loads(done.stdout.splitlines()[-1])
    assert seconds < (10 if images == 10_000 else 60)
    assert kilobytes < 1_000_000


def test_without_the_test_images_no_picture_is_drawn(synthetic: SyntheticProject) -> None:
    done = compare(synthetic, "HEAD~1", "HEAD", "--picture", "changed.png", check=False)
    assert "only B gets 41 right" in done.stdout
    assert done.returncode == 1
    assert done.stderr == (
        "compare: error: data/tensors/test.safetensors: not found, so no picture is drawn; "
        "run `dvc pull data/tensors/test.safetensors`\n"
    )
