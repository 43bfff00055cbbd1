"""Run the current settings with several seeds and summarize every metric.

The seeds are 0, 1, 2, ... Each run is a DVC experiment, and as many run at once as there are cores.
Existing runs are reused. Then the mean and standard deviation of every metric are shown.
"""

import argparse
import sys
from pathlib import Path

from image_pipeline.common.cores import available_cores
from image_pipeline.common.errors import ParamsError, PipelineError
from image_pipeline.common.params import read_params
from image_pipeline.experiments import options
from image_pipeline.experiments.dvc_queue import run_experiments, wait_for_dvc
from image_pipeline.experiments.revisions import WORKSPACE, repository_root, resolve

MAX_SEEDS = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("seeds", metavar="N", type=int, help=f"how many; 2 to {MAX_SEEDS}")
    parser.add_argument(
        "--jobs", metavar="J", type=int, help="how many runs at once; default: one per core"
    )
    options.add_format(parser)
    parser.add_argument(
        "--picture", metavar="FILE.png", type=Path, help="draw the mean and range of the curves"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run what is missing, and print the summary; return the exit status.

    Raises:
        DataError: results are missing or malformed.
        ParamsError: an argument or params.yaml is not valid.
        PipelineError: DVC's queue does not work, or a run failed.
        RevisionError: this is not a clone of the project.
    """
    count, jobs = arguments.seeds, arguments.jobs
    if not 2 <= count <= MAX_SEEDS:
        raise ParamsError(f"{count} seeds: give a number from 2 to {MAX_SEEDS}")
    if jobs is not None and not 1 <= jobs <= count:
        raise ParamsError(f"--jobs {jobs}: give a number from 1 to {count}")
    picture: Path | None = arguments.picture
    options.check_picture(picture)
    repository_root()
    wait_for_dvc()
    read_params()
    from image_pipeline.experiments.config_hash import config_hash
    from image_pipeline.experiments.seed_runs import (
        experiment_name,
        find_seed_runs,
        read_history,
        read_seed_runs,
    )
    from image_pipeline.experiments.seeds_report import format_summary

    digest = config_hash(resolve(WORKSPACE))
    existing = find_seed_runs(digest)
    missing = {
        experiment_name(digest, seed): [f"train.seed={seed}"]
        for seed in range(count)
        if seed not in existing
    }
    if missing:
        _run(missing, jobs or min(available_cores(), len(missing)), count)
    revisions = {seed: found for seed, found in find_seed_runs(digest).items() if seed < count}
    print(format_summary(read_seed_runs(revisions), arguments.format))
    if picture:
        from image_pipeline.plotting.curves import draw_curves

        draw_curves(picture, *map(read_history, revisions.values()))
    ran = f"ran {len(missing)} of {count}" if missing else f"all {count} had been run before"
    print(
        f"seeds: {ran}; experiments {experiment_name(digest, 0)} to "
        f"{experiment_name(digest, count - 1)}; "
        + (f"{picture} shows the curves" if picture else "--picture FILE.png draws the curves"),
        file=sys.stderr,
    )
    return 0


def _run(missing: dict[str, list[str]], jobs: int, count: int) -> None:
    try:
        failed = run_experiments(missing, jobs, "seeds")
    except KeyboardInterrupt:
        print(
            "seeds: the runs continue in the background: `dvc queue status` lists them, `dvc queue "
            f"stop --kill` ends them, `python -m image_pipeline seeds {count}` waits for them",
            file=sys.stderr,
        )
        raise
    if failed:
        raise PipelineError(
            f"{len(failed)} of {len(missing)} runs failed; `dvc queue logs {failed[0]}` says why. "
            "The others are kept"
        )
