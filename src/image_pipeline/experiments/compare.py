"""Compare two runs on the same test images: is the difference significant?

A and B are what `dvc metrics diff` takes: commits, branches, tags, experiments, workspace. Reads
plots/predictions.csv, dvc.lock and params.yaml from Git, and runs nothing.
"""

import argparse
import sys
from pathlib import Path

from image_pipeline.common.errors import DataError
from image_pipeline.experiments import options
from image_pipeline.experiments.revisions import (
    WORKSPACE,
    Revision,
    RevisionError,
    repository_root,
    resolve,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("a", metavar="A", nargs="?", default="HEAD", help="default: HEAD")
    parser.add_argument(
        "b", metavar="B", nargs="?", default=WORKSPACE, help="default: the workspace"
    )
    options.add_format(parser)
    parser.add_argument(
        "--seeds",
        action="store_true",
        help="compare settings instead of runs, over the seeds that `seeds N` ran of both",
    )
    parser.add_argument(
        "--picture",
        metavar="FILE.png",
        type=Path,
        help="draw the images that only one of the two gets right; needs the test images "
        "(`dvc pull data/tensors/test.safetensors`)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Compare two runs, or two settings over seeds; return the exit status.

    Raises:
        DataError: results are missing or malformed, or the test images differ.
        RevisionError: a revision does not exist.
    """
    picture: Path | None = arguments.picture
    options.check_picture(picture)
    repository_root()
    revisions = [resolve(name) for name in (arguments.a, arguments.b)]
    if arguments.seeds:
        if picture:
            raise RevisionError("--picture compares two runs; omit it or --seeds")
        print(_compare_settings(revisions[0], revisions[1], arguments.format))
        return 0
    # After the names are known to be good: these import NumPy and SciPy.
    from image_pipeline.experiments.comparison import compare
    from image_pipeline.experiments.report import FORMATS
    from image_pipeline.experiments.results import read_results

    a, b = [read_results(revision) for revision in revisions]
    comparison = compare(a, b)
    print(FORMATS[arguments.format](comparison))
    if picture:
        from image_pipeline.experiments.disagreements import draw_disagreements

        try:
            drawn = draw_disagreements(picture, comparison, a, b)
        except DataError as error:  # the comparison is printed all the same
            print(f"compare: error: {error}", file=sys.stderr)
            return error.exit_code
        print(f"compare: {picture} shows {drawn}", file=sys.stderr)
    return 0


def _compare_settings(a: Revision, b: Revision, form: str) -> str:
    from image_pipeline.experiments.config_hash import config_hash
    from image_pipeline.experiments.seed_runs import find_seed_runs, read_seed_runs
    from image_pipeline.experiments.seeds_report import format_paired

    hashes = [config_hash(revision) for revision in (a, b)]
    if hashes[0] == hashes[1]:
        raise DataError(f"{a} and {b} have the same settings; there is nothing to compare")
    found = [find_seed_runs(digest) for digest in hashes]
    common = sorted(found[0].keys() & found[1].keys())
    if len(common) < 2:
        raise DataError(
            f"{a} has run with {len(found[0])} seeds and {b} with {len(found[1])}, with fewer than "
            "two in common; check out each and run `python -m image_pipeline seeds 10`"
        )
    runs_a, runs_b = [read_seed_runs({seed: each[seed] for seed in common}) for each in found]
    if runs_a[common[0]].data[-1] != runs_b[common[0]].data[-1]:
        raise DataError(f"{a} and {b} have different test splits, so they cannot be compared")
    return format_paired(str(a), str(b), runs_a, runs_b, form)
