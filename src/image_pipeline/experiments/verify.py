"""Are the committed results of a commit real? Runs it aside, and compares every output.

The commit is cloned into a temporary folder, every stage runs there, with nothing of DVC's cache,
and what comes out is held against dvc.lock and against the metrics and plots in Git. Exit status: 0
if all is the same, 1 if anything is not. Your working tree may be in any state.
"""

import argparse
import sys
from pathlib import Path

from image_pipeline.common.errors import PipelineError
from image_pipeline.experiments.revisions import (
    SHORT,
    WORKSPACE,
    RevisionError,
    repository_root,
    resolve,
)

SHOWN = 3  # names in the verdict


class RunError(PipelineError):
    """A run that ended before its outputs were all there."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument(
        "rev", metavar="REV", nargs="?", default="HEAD", help="a commit, branch, tag or experiment"
    )
    parser.add_argument(
        "--stage", help="run the stages up to this one, and compare its outputs alone"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run a commit aside and compare; return the exit status.

    Raises:
        CloneError: Git cannot clone it.
        RevisionError: there is no such revision, or no such stage in it.
        RunError: a stage fails.
    """
    top = repository_root()
    revision = resolve(arguments.rev)
    if revision.commit is None:
        raise RevisionError(f"`{WORKSPACE}` is no commit; commit it, then verify HEAD")
    return _verify(top, revision.commit, arguments.stage)


def _verify(top: Path, commit: str, stage: str | None) -> int:
    from image_pipeline.experiments.aside import CLONE, cloned, other_packages, run_stages
    from image_pipeline.experiments.outputs import (
        check_inputs,
        check_outputs,
        read_stages,
        remove_outputs,
    )

    short = commit[:SHORT]
    with cloned(top, commit) as folder:
        root = folder / CLONE / Path.cwd().relative_to(top.resolve())
        stated = read_stages(root / "dvc.lock")
        if not stated:
            raise RevisionError(f"{short} has no dvc.lock with a run in it; nothing to verify")
        if stage and stage not in stated:
            raise RevisionError(
                f"--stage {stage}: not in the dvc.lock of {short}; it has {', '.join(stated)}"
            )
        others = other_packages(root)
        for other in others:
            print(f"verify: note: this environment has {other}", file=sys.stderr)
        remove_outputs(root, stated)
        print(f"verify: running {short} in {root}", file=sys.stderr)
        status = run_stages(root, folder, stage)
        found = read_stages(root / "dvc.lock")
        if status:
            ended = next((name for name in stated if name not in found), "a stage")
            raise RunError(
                f"{short}: {ended} failed (its words are above), so nothing can be said of its "
                "results; run `make setup` in that commit if it is the environment, set "
                "DATASET_MIRROR if it is the network"
            )
        inputs = list(check_inputs(stated, found))
        if stage:
            stated, found = {stage: stated[stage]}, {stage: found[stage]}
        outputs = list(check_outputs(root, stated, found, not stage))
    for checked in (*inputs, *outputs):
        print(f"{'DIFFERS' if checked.wrong else 'ok     '}  {checked.name}", end="")
        print(f": {checked.wrong}" if checked.wrong else "")
    wrong = [checked.name for checked in (*inputs, *outputs) if checked.wrong]
    if not wrong:
        of_stage = f" of {stage}" if stage else ""
        print(f"verify: {short} is real: all {len(outputs)} outputs{of_stage} came out the same")
        return 0
    names = ", ".join(wrong[:SHOWN]) + (f" and {len(wrong) - SHOWN} more" * (len(wrong) > SHOWN))
    why = "; this environment is not the commit's" if others else ""
    print(f"verify: {short} is NOT what its code, data and params make: {names}{why}")
    return 1
