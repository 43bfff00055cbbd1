"""Run the present settings under several seeds: how much is the seed's, and how sure is the mean?

The seeds are 0, 1, 2, ... Each run is an experiment of DVC's, several at once where there are cores
for them; what has run before is not run again. Then the spread of every metric is shown.
"""

import argparse
import sys
from pathlib import Path

from image_pipeline.common.cores import available_cores
from image_pipeline.common.errors import ParamsError
from image_pipeline.common.params import read_params
from image_pipeline.experiments.queue import QueueError, run_experiments, wait_for_dvc
from image_pipeline.experiments.revisions import (
    WORKSPACE,
    check_picture,
    repository_root,
    resolve,
)

MAX_SEEDS = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("seeds", metavar="N", type=int, help=f"how many; 2 to {MAX_SEEDS}")
    parser.add_argument(
        "--jobs", metavar="J", type=int, help="how many runs at once; default: one per core"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="for a pull request")
    form.add_argument("--json", action="store_true", help="for a program")
    parser.add_argument(
        "--picture", metavar="FILE.png", type=Path, help="draw the curves, with their band"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run what has not run yet, and show the spread; return the exit status.

    Raises:
        DataError: a run is not recorded whole.
        ParamsError: there are fewer seeds than two, or params.yaml is not valid.
        QueueError: DVC's queue does not work.
        RevisionError: this is no clone of the project.
    """
    count, jobs = arguments.seeds, arguments.jobs
    if not 2 <= count <= MAX_SEEDS:
        raise ParamsError(f"{count} seeds: give a number from 2 to {MAX_SEEDS}")
    if jobs is not None and not 1 <= jobs <= count:
        raise ParamsError(f"--jobs {jobs}: give a number from 1 to {count}")
    picture: Path | None = arguments.picture
    check_picture(picture)
    repository_root()
    wait_for_dvc()
    read_params()
    from image_pipeline.experiments import seeds_report
    from image_pipeline.experiments.repeats import find_repeats, name_of, read_repeats
    from image_pipeline.experiments.settings import settings_key

    key = settings_key(resolve(WORKSPACE))
    there = find_repeats(key)
    missing = {
        name_of(key, seed): [f"train.seed={seed}"] for seed in range(count) if seed not in there
    }
    if missing:
        _run(missing, jobs or min(available_cores(), len(missing)), count)
    revisions = {seed: found for seed, found in find_repeats(key).items() if seed < count}
    repeats = read_repeats(revisions)
    form = seeds_report.spread_as_text
    if arguments.markdown or arguments.json:
        form = (
            seeds_report.spread_as_markdown if arguments.markdown else seeds_report.spread_as_json
        )
    print(form(repeats))
    if picture:
        from image_pipeline.experiments.repeats import read_history
        from image_pipeline.plotting.curves import draw_curves

        draw_curves(picture, *map(read_history, revisions.values()))
    ran = f"{len(missing)} of {count} ran now" if missing else f"all {count} had run before"
    print(
        f"seeds: {ran}; experiments {name_of(key, 0)} to {name_of(key, count - 1)}; "
        + (f"{picture} shows the curves" if picture else "--picture FILE.png draws the curves"),
        file=sys.stderr,
    )
    return 0


def _run(missing: dict[str, list[str]], jobs: int, count: int) -> None:
    try:
        failed = run_experiments(missing, jobs, "seeds")
    except KeyboardInterrupt:
        print(
            "seeds: the runs go on in the background: `dvc queue status` shows them, `dvc queue "
            f"stop --kill` ends them, `python -m image_pipeline seeds {count}` waits for them",
            file=sys.stderr,
        )
        raise
    if failed:
        raise QueueError(
            f"{len(failed)} of {len(missing)} runs failed; `dvc queue logs {failed[0]}` says why. "
            "Those that ended well are kept"
        )
