"""Verify a commit's results: run it in a clean checkout and compare every output.

The commit is cloned into a temporary folder, and every stage runs there without DVC's cache. Its
outputs are compared with dvc.lock and with the metrics and plots in Git. Exit status: 0 if all are
the same, 1 if not. The state of your working tree does not matter.

With `--against`, nothing runs. The receipt of a training (metrics/receipt.json) is compared with
somebody else's: hashes of its params, data, initial weights, of every layer's output and gradient
in the first step, and of the weights after each epoch. The first one that differs is named.
"""

import argparse
import sys
from pathlib import Path

from image_pipeline.common.errors import PipelineError, one_line
from image_pipeline.experiments.revisions import (
    SHORT,
    WORKSPACE,
    Revision,
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
        "--stage", help="run the stages up to this one, and compare only its outputs"
    )
    parser.add_argument(
        "--against",
        type=Path,
        metavar="RECEIPT",
        help="run nothing: say where this training and that of another receipt.json part",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run a commit in a clean checkout and compare its outputs; return the exit status.

    Raises:
        PipelineError: Git cannot clone it, or a stage failed; a receipt is missing or malformed.
        RevisionError: there is no such revision, or no such stage in it.
    """
    top = repository_root()
    if arguments.against:
        if arguments.stage:
            raise RevisionError("--stage: --against runs no stage; leave one of them out")
        return _compare(resolve(arguments.rev or WORKSPACE), arguments.against)
    revision = resolve(arguments.rev or "HEAD")
    if revision.commit is None:
        raise RevisionError(f"`{WORKSPACE}` is not a commit; commit it, then verify HEAD")
    return _verify(top, revision.commit, arguments.stage)


def _compare(revision: Revision, path: Path) -> int:
    """Compare a revision's receipt with another one; return the exit status."""
    from image_pipeline.experiments.receipts import (
        COMPUTED,
        first_divergence,
        input_differences,
        read_own_receipt,
        read_receipt,
    )

    try:
        other = read_receipt(str(path), path.read_bytes())
    except OSError as error:
        raise PipelineError(f"{path}: {error.strerror}; give a receipt.json") from None
    own, stages = read_own_receipt(revision)
    inputs = list(input_differences(own, other, stages))
    for name, how in inputs:
        print(f"DIFFERS  {one_line(name)}: {one_line(how)}")
    divergence = first_divergence(own, other)
    if divergence:
        print(f"DIFFERS  {divergence}")
    hashes = sum(len(own[section]) for section in ("inputs", *COMPUTED))
    if inputs:
        print(f"verify: {revision} and {path} are runs of different params or data")
    elif divergence:
        print(f"verify: {revision} and {path} part, with the same params and data")
    else:
        print(f"verify: {revision} and {path} are the same: params and all {hashes} hashes")
    return int(bool(inputs or divergence))


def _verify(top: Path, commit: str, stage: str | None) -> int:
    from image_pipeline.experiments.clean_checkout import (
        CLONE,
        clean_checkout,
        mismatched_packages,
        run_stages,
    )
    from image_pipeline.experiments.results import read_stages
    from image_pipeline.experiments.verification import check_inputs, check_outputs, remove_outputs

    short = commit[:SHORT]
    with clean_checkout(top, commit) as folder:
        root = folder / CLONE / Path.cwd().relative_to(top.resolve())
        recorded = read_stages(root / "dvc.lock")
        if not recorded:
            raise RevisionError(f"{short} has no dvc.lock with a run in it; nothing to verify")
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
        rerun = read_stages(root / "dvc.lock")
        if status:
            failed = next((name for name in recorded if name not in rerun), "a stage")
            raise PipelineError(
                f"{short}: {failed} failed (its output is above), so its results cannot be "
                "verified; if it is the environment, run `make setup` in that commit; if it is the "
                "network, set DATASET_MIRROR"
            )
        checks = list(check_inputs(recorded, rerun))
        if stage:
            recorded, rerun = {stage: recorded[stage]}, {stage: rerun[stage]}
        outputs = list(check_outputs(root, recorded, rerun, not stage))
    checks += outputs
    for check in checks:
        print(f"{'DIFFERS' if check.problem else 'ok     '}  {check.name}", end="")
        print(f": {check.problem}" if check.problem else "")
    differing = [check.name for check in checks if check.problem]
    if not differing:
        of_stage = f" of {stage}" if stage else ""
        print(
            f"verify: {short} is verified: all {len(outputs)} outputs{of_stage} came out the same"
        )
        return 0
    more = len(differing) - SHOWN
    names = ", ".join(differing[:SHOWN]) + (f" and {more} more" if more > 0 else "")
    reason = "; this environment does not match the commit's" if mismatched else ""
    print(f"verify: {short} is NOT what its code, data and params produce: {names}{reason}")
    return 1
