"""Search for better settings: Optuna proposes them, DVC runs them, the validation split judges.

It begins with the settings of params.yaml and changes what a space, recipes/spaces/<name>.yaml,
says. Each trial is an experiment that ends after training, so that the test split is not looked at;
runs that are worse than most at the same point are given up. The winner alone is evaluated.
Interrupted or killed, the same command goes on.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from image_pipeline.common import paths
from image_pipeline.common.cores import available_cores
from image_pipeline.common.errors import ParamsError
from image_pipeline.common.params import read_params
from image_pipeline.experiments.queue import Queue, QueueError, run_experiments, wait_for_dvc
from image_pipeline.experiments.revisions import (
    WORKSPACE,
    check_picture,
    experiments,
    repository_root,
    resolve,
)

MAX_TRIALS = 10_000
MAX_JOBS = 1000
MAX_SEED = 1_000_000
SHOWN = 5
LAST_STEP_SECONDS = 2.0  # for the last step of a search that was killed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("space", nargs="?", help="what may vary; without it, all spaces are listed")
    parser.add_argument("--trials", metavar="N", type=int, default=30, help="in all; default: 30")
    parser.add_argument(
        "--jobs", metavar="J", type=int, help="how many runs at once; default: one per core"
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is proposed; default: 0")
    parser.add_argument(
        "--picture", metavar="FILE.png", type=Path, help="draw how much each setting matters"
    )


def run(arguments: argparse.Namespace) -> int:
    """Search, and say what was found; return the exit status.

    Raises:
        DataError: a run is not recorded whole.
        ParamsError: there is no such space, or params.yaml is not valid.
        QueueError: DVC's queue does not work.
        RevisionError: this is no clone of the project, or the picture cannot be written.
    """
    picture: Path | None = arguments.picture
    check_picture(picture)
    for option, lowest, highest in (
        ("trials", 2, MAX_TRIALS),
        ("jobs", 1, MAX_JOBS),
        ("seed", 0, MAX_SEED),
    ):
        number = getattr(arguments, option)
        if number is not None and not lowest <= number <= highest:
            raise ParamsError(f"--{option} {number}: give a number from {lowest} to {highest}")
    repository_root()
    from image_pipeline.experiments import spaces

    if arguments.space is None:
        for name in spaces.names():
            print(f"{name:12} {spaces.headline(name)}")
        return 0
    wait_for_dvc()
    params = read_params()

    import optuna
    from tqdm import tqdm

    from image_pipeline.experiments.dvc_trials import DvcRunner, settings_of
    from image_pipeline.experiments.settings import settings_key
    from image_pipeline.experiments.trials import EXPERIMENT, NUMBER, search

    space = spaces.read_space(arguments.space)
    jobs = arguments.jobs or available_cores()
    about = [settings_key(resolve(WORKSPACE)), params.train.seed, space.text, arguments.seed, jobs]
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:8]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    paths.CHECKPOINTS.mkdir(exist_ok=True)
    with _alone(space.path):
        study = optuna.create_study(
            study_name=key,
            direction="maximize",
            storage=f"sqlite:///{paths.CHECKPOINTS / f'search-{key}.sqlite'}",
            load_if_exists=True,
        )
        with (
            Queue(jobs) as queue,
            tqdm(
                total=arguments.trials, initial=len(study.trials), desc="search", unit="trial"
            ) as bar,
        ):
            for _ in search(
                study,
                space.distributions,
                spaces.present(space),
                arguments.trials,
                jobs,
                arguments.seed,
                DvcRunner(key, queue),
            ):
                bar.update()
                bar.set_postfix_str(_best(study))
        complete = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
        if not complete:
            raise QueueError("all trials failed; `dvc queue status` and `dvc queue logs` say why")
        best = max(complete, key=lambda t: (t.value, -t.user_attrs[NUMBER]))
        name = f"{best.user_attrs[EXPERIMENT]}-best"
        changes = settings_of(best.params)
        if name not in experiments() and run_experiments({name: changes}, 1, "winner"):
            raise QueueError(f"the winner's run failed; `dvc queue logs {name}` says why")
    _show(study, complete, best, name, changes, picture)
    return 0


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Make sure that no other search of a space is at work: each would run the other's trials.

    The lock is on the space's file, so it leaves none behind, and ends with the process.
    """
    import fcntl

    with path.open("rb") as space:
        end = time.monotonic() + LAST_STEP_SECONDS
        while True:
            try:
                fcntl.flock(space, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise QueueError(
                        f"{path}: another search of this space is at work; wait for its end"
                    ) from None
            time.sleep(0.1)
        yield


def _best(study: Any) -> str:
    values = [t.value for t in study.trials if t.state.name == "COMPLETE"]
    return f"best validation accuracy {max(values):.2%}" if values else ""


def _show(
    study: Any, complete: list[Any], best: Any, name: str, changes: list[str], picture: Path | None
) -> None:
    from image_pipeline.experiments.repeats import read_repeats
    from image_pipeline.experiments.report import aligned
    from image_pipeline.experiments.spaces import in_params

    keys = list(best.params)
    rows = [("trial", "validation", *(key.rpartition(".")[2] for key in keys))]
    for trial in sorted(complete, key=lambda t: (-t.value, t.user_attrs["number"]))[:SHOWN]:
        values = [in_params(trial.params[key]) for key in keys]
        shown = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
        rows.append((str(trial.user_attrs["number"]), f"{trial.value:.2%}", *shown))
    states = [t.state.name for t in study.trials]
    print(
        f"{len(states)} trials: {len(complete)} ran to their end, {states.count('PRUNED')} were "
        f"given up, {states.count('FAIL')} failed. The best:\n\n{aligned(rows)}\n"
    )
    metrics = read_repeats({0: experiments()[name]})[0].metrics
    print("The settings to adopt:\n" + "\n".join(f"  {change}" for change in changes))
    print(
        f"\nsearch: {name}: validation accuracy {best.value:.2%}, test accuracy "
        f"{metrics['accuracy']:.2%} ({metrics['errors']:.0f} errors), looked at once; `dvc exp "
        f"apply {name}` adopts it, `python -m image_pipeline compare HEAD {name}` judges it"
    )
    if picture:
        draw_importance(picture, study)
        print(f"search: {picture} shows how much each setting matters", file=sys.stderr)


def draw_importance(path: Path, study: Any) -> None:
    """Draw how much of the trials' differences each setting explains, by Optuna's estimate."""
    import optuna

    from image_pipeline.plotting.figures import new_figure, save_figure

    importances = optuna.importance.get_param_importances(study)
    names = list(reversed(importances))
    figure = new_figure(9, 1.5 + 0.4 * len(names))
    axes = figure.subplots()
    axes.barh([name.removeprefix("train.") for name in names], [importances[n] for n in names])
    axes.set(title="What matters to the validation accuracy (fANOVA)", xlabel="share")
    save_figure(path, figure)
