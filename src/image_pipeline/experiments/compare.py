"""Compare two runs, each test image paired with itself: is the difference real?

Takes the revisions that `dvc metrics diff` takes: commits, branches, tags, experiments, workspace.
It reads what Git has of them, plots/predictions.csv, dvc.lock and params.yaml, and runs nothing.
"""

import argparse
import json
import sys
from pathlib import Path

from image_pipeline.common.errors import DataError
from image_pipeline.experiments.revisions import (
    WORKSPACE,
    Revision,
    RevisionError,
    check_picture,
    repository_root,
    resolve,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("a", metavar="A", nargs="?", default="HEAD", help="default: HEAD")
    parser.add_argument(
        "b", metavar="B", nargs="?", default=WORKSPACE, help="default: the workspace"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="for a pull request")
    form.add_argument("--json", action="store_true", help="for a program")
    parser.add_argument(
        "--seeds",
        action="store_true",
        help="compare not two runs but two settings, over the seeds that `seeds N` ran of both",
    )
    parser.add_argument(
        "--picture",
        metavar="FILE.png",
        type=Path,
        help="draw the images that B finds and A missed, and the other way round; needs the test "
        "images (`dvc pull data/tensors/test.safetensors`)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Compare, and print; return the exit status.

    Raises:
        DataError: a run is not recorded whole, or the two were tested on different images.
        RevisionError: there is no such revision.
    """
    picture: Path | None = arguments.picture
    check_picture(picture)
    repository_root()
    revisions = [resolve(name) for name in (arguments.a, arguments.b)]
    if arguments.seeds:
        if picture:
            raise RevisionError("--picture shows two runs; leave it or --seeds out")
        _compare_settings(revisions[0], revisions[1], arguments)
        return 0
    # After the names are known to be good: these import NumPy and SciPy.
    from image_pipeline.experiments import report
    from image_pipeline.experiments.comparison import compare
    from image_pipeline.experiments.results import read_results

    a, b = [read_results(revision) for revision in revisions]
    comparison = compare(a, b)
    form = report.as_text
    if arguments.markdown or arguments.json:
        form = report.as_markdown if arguments.markdown else report.as_json
    print(form(comparison))
    if picture:
        from image_pipeline.experiments.picture import draw_won_and_lost

        try:
            drawn = draw_won_and_lost(picture, comparison, a, b)
        except DataError as error:  # the comparison stands
            print(f"compare: error: {error}", file=sys.stderr)
            return error.exit_code
        print(f"compare: {picture} shows {drawn}", file=sys.stderr)
    return 0


def _compare_settings(a: Revision, b: Revision, arguments: argparse.Namespace) -> None:
    from image_pipeline.experiments import seeds_report
    from image_pipeline.experiments.repeats import find_repeats, read_repeats
    from image_pipeline.experiments.report import escaped
    from image_pipeline.experiments.settings import settings_key

    keys = [settings_key(revision) for revision in (a, b)]
    if keys[0] == keys[1]:
        raise DataError(f"{a} and {b} have the same settings; there is nothing to compare")
    found = [find_repeats(key) for key in keys]
    common = sorted(found[0].keys() & found[1].keys())
    if len(common) < 2:
        raise DataError(
            f"{a} has run under {len(found[0])} seeds and {b} under {len(found[1])}, and two that "
            "both have are needed; with each checked out, run `python -m image_pipeline seeds 10`"
        )
    paired = [read_repeats({seed: of[seed] for seed in common}) for of in found]
    tested = {repeats[common[0]].data[-1] for repeats in paired}
    if len(tested) > 1:
        raise DataError(f"{a} and {b} have different test splits; their figures do not compare")
    if arguments.json:
        print(
            json.dumps({"a": str(a), "b": str(b)} | seeds_report.paired_values(*paired), indent=2)
        )
    elif arguments.markdown:
        print(f"### {escaped(str(b))} (B) against {escaped(str(a))} (A)\n")
        print(seeds_report.paired_as_markdown(*paired))
    else:
        print(f"A  {a}\nB  {b}\n")
        print(seeds_report.paired_as_text(*paired))
