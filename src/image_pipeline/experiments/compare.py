"""Compare two runs, each test image paired with itself: is the difference real?

Takes the revisions that `dvc metrics diff` takes: commits, branches, tags, experiments, workspace.
It reads what Git has of them, plots/predictions.csv, dvc.lock and params.yaml, and runs nothing.
"""

import argparse
import sys
from pathlib import Path

from image_pipeline.common.errors import DataError
from image_pipeline.experiments.revisions import WORKSPACE, RevisionError, repository_root, resolve


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
    if picture and (picture.suffix.lower() != ".png" or not picture.parent.is_dir()):
        raise RevisionError(f"{picture}: not a file.png in a folder that exists; give another name")
    repository_root()
    revisions = [resolve(name) for name in (arguments.a, arguments.b)]
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
