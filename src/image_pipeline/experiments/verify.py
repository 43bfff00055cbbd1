"""Verify a commit's results: run it in a clean checkout and compare every output.

The commit is cloned into a temporary folder, and every stage runs there without DVC's cache. Its
outputs are compared with dvc.lock and with the metrics and plots in Git. Exit status: 0 if all are
the same, 1 if not. The state of your working tree does not matter.

With `--against`, nothing runs. The records of two runs are compared, and the first stage is named
whose outputs differ though it read the same: by the hashes in dvc.lock. Of a training,
metrics/receipt.json also says at which step or epoch and in which tensor.
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "rev",
        metavar="REV",
        nargs="?",
        help="a commit, branch, tag or experiment; default: HEAD, with --against the workspace",
    )
    parser.add_argument(
        "--stage", help="run the stages up to this one, and compare only their outputs"
    )
    parser.add_argument(
        "--against",
        metavar="RUN",
        help="run nothing: say where this run and another part, given by its receipt.json, its "
        "dvc.lock, a folder with both, or a revision",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run a commit in a clean checkout and compare its outputs; return the exit status.

    Raises:
        PipelineError: Git cannot clone it, or a stage failed; a record is missing or malformed.
        RevisionError: there is no such revision, or no such stage in it.
    """
    top = repository_root()
    if arguments.against is not None:
        if arguments.stage:
            raise RevisionError("--stage: --against runs no stage; leave one of them out")
        from image_pipeline.experiments.against import compare_runs
        from image_pipeline.experiments.recorded_runs import read_project, read_run

        own = read_project(resolve(arguments.rev or WORKSPACE))
        return compare_runs(own, read_run(arguments.against))
    revision = resolve(arguments.rev or "HEAD")
    if revision.commit is None:
        raise RevisionError(f"`{WORKSPACE}` is not a commit; commit it, then verify HEAD")
    return _verify(top, revision.commit, arguments.stage)


def _verify(top: Path, commit: str, stage: str | None) -> int:
    from image_pipeline.experiments.clean_checkout import (
        CLONE,
        clean_checkout,
        mismatched_packages,
        run_stages,
    )
    from image_pipeline.experiments.recorded_runs import parse_lock
    from image_pipeline.experiments.results import LOCK, read_stages
    from image_pipeline.experiments.stage_differences import differing_stages, origins
    from image_pipeline.experiments.verification import (
        check_inputs,
        check_outputs,
        first_tensor,
        remove_outputs,
    )

    short = commit[:SHORT]
    with clean_checkout(top, commit) as folder:
        root = folder / CLONE / Path.cwd().relative_to(top.resolve())
        lock = root / LOCK
        if not lock.is_file():
            raise RevisionError(f"{short} has no dvc.lock with a run in it; nothing to verify")
        recorded = parse_lock(f"{LOCK} in {short}", lock.read_bytes())
        if stage and stage not in recorded:
            raise RevisionError(
                f"--stage {stage}: not in the dvc.lock of {short}; it has {', '.join(recorded)}"
            )
        mismatched = mismatched_packages(root)
        for package in mismatched:
            print(f"verify: note: this environment has {package}", file=sys.stderr)
        remove_outputs(root, recorded)
        print(f"verify: running {short} in {root}", file=sys.stderr)
        status = run_stages(root, folder, stage)
        rerun = read_stages(lock)
        if status:
            failed = next((name for name in recorded if name not in rerun), "a stage")
            raise PipelineError(
                f"{short}: {failed} failed (its output is above), so its results cannot be "
                "verified; if it is the environment, run `make setup` in that commit; if it is the "
                "network, set DATASET_MIRROR"
            )
        checks = list(check_inputs(recorded, rerun))
        if stage:
            recorded = {name: recorded[name] for name in recorded if name in rerun}
        outputs = list(check_outputs(root, recorded, rerun, not stage))
        parted = [found.name for found in origins(differing_stages(recorded, rerun))]
        tensor = first_tensor(root, recorded, rerun)
    checks += outputs
    for check in checks:
        print(f"{'DIFFERS' if check.problem else 'ok     '}  {check.name}", end="")
        print(f": {check.problem}" if check.problem else "")
    if tensor:
        print(f"DIFFERS  {tensor}")
    differing = [check.name for check in checks if check.problem]
    if not differing:
        up_to = f" up to {stage}" if stage else ""
        print(f"verify: {short} is verified: all {len(outputs)} outputs{up_to} came out the same")
        return 0
    more = len(differing) - SHOWN
    names = ", ".join(differing[:SHOWN]) + (f" and {more} more" if more > 0 else "")
    reason = f"; {parted[0]} read the same and wrote other bits" if parted else ""
    reason += "; this environment does not match the commit's" if mismatched else ""
    print(f"verify: {short} is NOT what its code, data and params produce: {names}{reason}")
    return 1
