"""Two runs at the same moment: one waits or is told so, and no output is mixed.

Several experiments of a queue at once are in experiments/test_seeds.py.
"""

from kill_harness import WAITING, Command, Undisturbed, forget, outputs

from project import SMALL, Project


def test_two_dvc_repros_in_one_clone(undisturbed: tuple[Project, Undisturbed]) -> None:
    project, expected = undisturbed
    forget(project)
    with Command(project, "dvc", "repro") as one, Command(project, "dvc", "repro") as other:
        codes = {one.wait(): one.text, other.wait(): other.text}
    assert 0 in codes, codes  # at least one came through
    for code, text in codes.items():
        assert "Traceback" not in text
        if code:
            assert "ERROR" in text
            assert any(told in text for told in ("Unable to acquire lock", "is busy")), text
    assert project.run("dvc", "repro").returncode == 0
    expected.check(project)


def test_two_trainings_by_hand(undisturbed: tuple[Project, Undisturbed]) -> None:
    project, expected = undisturbed
    # The first with other params, read before the second begins: its outputs must not survive.
    project.set_params({"train.seed": 5, "train.epochs": 6})
    with Command(project, "python", "stages/train.py") as first:
        assert first.wait_for_stage("train")
        while "train:" not in first.text:  # it has read its params: the bar is there
            assert first.process.poll() is None
        project.set_params({key: SMALL.get(key, 0) for key in ("train.seed", "train.epochs")})
        with Command(project, "python", "stages/train.py") as second:
            assert first.wait() == 0, first.text
            assert second.wait() == 0, second.text
    assert WAITING in second.text.splitlines()
    assert WAITING not in first.text
    project.stage("plot")  # which draws the final curves
    assert outputs(project) == expected.outputs
    assert list((project.root / "checkpoints").iterdir()) == []
