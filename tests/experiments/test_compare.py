"""`python -m image_pipeline compare`, as a user calls it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.experiment_projects import MadeUp, call, predictions
from image_pipeline.experiments.changes import flat
from project import LONGER, Project

COMPARE = (sys.executable, "-m", "image_pipeline", "compare")


@pytest.fixture
def made_up(tmp_path: Path) -> MadeUp:
    """Return a project with two runs: the second finds 41 that the first missed, and misses 35."""
    project = MadeUp(tmp_path / "project")
    first, second = predictions(41, 35)
    project.record(first)
    project.record(second, seed=1)
    return project


def compare(
    project: Project, *arguments: str, check: bool = True
) -> subprocess.CompletedProcess[str]:
    return call(project, "compare", *arguments, check=check)


def refused(project: Project, *arguments: str) -> str:
    done = compare(project, *arguments, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("compare: error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_the_sentence_and_the_numbers(made_up: MadeUp) -> None:
    done = compare(made_up, "HEAD~1", "HEAD")
    assert (
        "B finds 41 images that A missed and misses 35 that A found: "
        "no difference that 1,000 images could show (p = 0.57).\n"
    ) in done.stdout
    assert "\naccuracy                    95.90%  96.50%   +0.60%" in done.stdout
    assert "\nerrors                          41      35       -6" in done.stdout
    assert "takes about 17,000 test images." in done.stdout
    assert "  params       train.seed: 0 -> 1\n" in done.stdout
    assert "\nNA " in done.stdout  # a class of this name, and no missing value


def test_blocks_become_dotted_keys() -> None:
    block = {"a": 1, "b": {"c": {"d": [2]}, "e": {}}, "f": {}}
    assert flat(block) == {"a": 1, "b.c.d": [2], "b.e": {}, "f": {}}


def test_without_git_a_line_says_so(made_up: MadeUp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(made_up.root))
    done = compare(made_up, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("compare: error: ")
    assert "Git is not installed" in done.stderr
    assert done.stderr.count("\n") == 1


def test_json_has_it_all(made_up: MadeUp) -> None:
    values = json.loads(compare(made_up, "HEAD~1", "HEAD", "--json").stdout)
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


def test_markdown_cannot_be_broken_by_names(made_up: MadeUp) -> None:
    made_up.run("git", "branch", "a|b`c")
    text = compare(made_up, "HEAD~1", "a|b`c", "--markdown").stdout
    assert text.startswith("### a\\|b\\`c (")
    assert "\n| accuracy | 95.90% | 96.50% | +0.60% |" in text
    assert "**B finds 41 images" in text


def test_a_real_difference_is_called_one(tmp_path: Path) -> None:
    project = MadeUp(tmp_path / "project")
    for table in predictions(60, 20):
        project.record(table)
    assert "20 that A found: B is better, by more than chance" in compare(project, "HEAD~1").stdout
    assert "60 that A found: A is better," in compare(project, "HEAD", "HEAD~1").stdout
    assert "right and wrong on the same of all 1,000" in compare(project).stdout
    assert "nothing that dvc.lock records" in compare(project).stdout


@pytest.mark.slow
def test_names_are_those_that_dvc_knows(made_up: MadeUp) -> None:
    made_up.run("git", "tag", "old", "HEAD~1")
    made_up.run("git", "branch", "try", "HEAD~1")
    commit = made_up.run("git", "rev-parse", "HEAD~1").stdout.strip()
    made_up.run("git", "update-ref", f"refs/exps/{commit[:2]}/{commit[2:]}/brisk-hare", commit)
    for name in ("old", "try", commit[:8], "brisk-hare", "refs/tags/old"):
        done = compare(made_up, name)
        assert done.stdout.splitlines()[1] == "B  workspace"
        assert "B finds 41" in done.stdout
    done = compare(made_up, "no-such", check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "compare: error: unknown Git revision 'no-such'; `git log --oneline --all` lists commits, "
        "`dvc exp list --all-commits` experiments\n"
    )


def test_other_test_images_are_refused(made_up: MadeUp) -> None:
    first, _ = predictions(0, 0)
    made_up.record(first, test_hash="f" * 32)
    said = refused(made_up, "HEAD~1", "HEAD")
    assert "have different test splits (data/tensors/test.safetensors is 0123456 in one " in said
    made_up.record(first.iloc[:-1])
    assert "(1000 rows of plots/predictions.csv in one and 999 in the" in refused(made_up, "HEAD~2")
    first.loc[7, "actual"] = "cat" if first["actual"][7] != "cat" else "dog"
    made_up.record(first)
    assert "(row 8 of plots/predictions.csv is of class '" in refused(made_up, "HEAD~3")


def test_what_is_missing_is_named(made_up: MadeUp) -> None:
    table = made_up.root / "plots" / "predictions.csv"
    table.write_text("actual,predicted\ncat,dog\n")
    assert "plots/predictions.csv in workspace: no table of predictions (" in refused(made_up)
    table.unlink()
    assert "neither in workspace nor in its dvc.lock; run `dvc repro`" in refused(made_up)
    (made_up.root / "dvc.lock").unlink()
    assert "dvc.lock: not in workspace; there is no run to be read" in refused(made_up)
    (made_up.root / "dvc.yaml").unlink()
    done = compare(made_up, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith("no dvc.yaml here; run from the root of a project\n")


@pytest.mark.slow
def test_predictions_in_dvcs_cache(made_up: MadeUp) -> None:
    """They are read from there; where they are not, `dvc pull` is asked for by name."""
    lock = made_up.root / "dvc.lock"
    table = made_up.root / "plots" / "predictions.csv"
    digest = "a" * 30 + "bc"
    cached = made_up.root / ".dvc" / "cache" / "files" / "md5" / digest[:2] / digest[2:]
    cached.parent.mkdir(parents=True)
    table.rename(cached)
    out = f"    outs:\n    - path: plots/predictions.csv\n      md5: {digest}\n"
    lock.write_text(f"{lock.read_text()}  evaluate:\n    cmd: x\n{out}")
    made_up.commit("predictions in the cache")
    assert "B finds 41" in compare(made_up, "HEAD~2", "HEAD").stdout
    cached.unlink()
    assert refused(made_up).endswith(
        "keeps it in DVC's cache, and it is not there; "
        "run `dvc pull --all-commits plots/predictions.csv`\n"
    )
    assert refused(made_up, "HEAD~2").endswith("run `dvc pull plots/predictions.csv`\n")


def test_older_runs_without_the_probability(made_up: MadeUp) -> None:
    _, second = predictions(41, 35)
    made_up.record(second.drop(columns="probability_of_actual"))
    text = compare(made_up, "HEAD~2", "HEAD").stdout
    assert "\nloss                        0.5000  0.5000" in text
    assert "note: B: its plots/predictions.csv has no probability of the actual class" in text


def test_params_that_have_not_run_are_told(made_up: MadeUp) -> None:
    made_up.set_params({"train.seed": 9})
    note = "note: B: the results are of train.seed = 1, params.yaml has 9; `dvc repro`"
    assert note in compare(made_up).stdout


# Runs the command in a process whose only child it is.
MEASURED = """
import json, resource, subprocess, sys
subprocess.run([sys.executable, "-m", "image_pipeline", *sys.argv[1:]], check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""


@pytest.mark.parametrize("images", [10_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_time_and_memory(tmp_path: Path, images: int) -> None:
    """Seconds of processor time at 10,000 images, half a minute and 1 GB at a million.

    With room for a busy machine, where the same work takes a processor longer.
    """
    project = MadeUp(tmp_path / "project")
    for table in predictions(images // 100, images // 110, images):
        project.record(table)
    done = project.run(sys.executable, "-c", MEASURED, "compare", "HEAD~1", "HEAD")
    seconds, kilobytes = json.loads(done.stdout.splitlines()[-1])
    assert seconds < (10 if images == 10_000 else 60)
    assert kilobytes < 1_000_000


@pytest.fixture(scope="module")
def digits(finished: Project) -> Project:
    """Return a project with a committed run and an experiment."""
    finished.run("dvc", "exp", "run", "--name", "longer", "-S", f"train.epochs={LONGER}")
    finished.run("git", "checkout", "--quiet", ".")
    return finished


@pytest.mark.slow
def test_an_experiment_with_its_picture(digits: Project, tmp_path: Path) -> None:
    picture = tmp_path / "changed.png"
    done = digits.run(*COMPARE, "HEAD", "longer", "--picture", str(picture), "--json")
    values = json.loads(done.stdout)
    assert values["changed"]["params"] == [{"name": "train.epochs", "first": "3", "second": "4"}]
    assert sum(map(len, values["changed"].values())) == 1
    assert values["notes"] == []
    for letter in "ab":
        revision = values[letter].split("(")[1].rstrip(")")
        text = digits.run("git", "show", f"{revision}:metrics/test.json").stdout
        for name in ("accuracy", "errors", "loss", "macro_f1", "expected_calibration_error"):
            found = values["metrics"][name][letter]
            assert found == pytest.approx(json.loads(text)[name], abs=2e-6)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"{picture} shows {values['b_finds']} of {values['b_finds']} won" in done.stderr


@pytest.mark.slow
def test_a_plain_clone_is_enough_but_for_the_picture(digits: Project, tmp_path: Path) -> None:
    clone = digits.clone_to(tmp_path / "clone")
    done = clone.run(*COMPARE, "HEAD", "--picture", "changed.png", check=False)
    assert "A and B are right and wrong on the same of all 360 images." in done.stdout
    assert done.returncode == 1
    assert done.stderr == (
        "compare: error: data/tensors/test.safetensors: not found, so no picture is drawn; "
        "run `dvc pull data/tensors/test.safetensors`\n"
    )
