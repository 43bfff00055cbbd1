"""Search for better hyperparameters: Optuna proposes, DVC runs, validation accuracy decides.

Starts from params.yaml and varies the keys of a search space, recipes/spaces/<name>.yaml. A trial
is an experiment that ends after training, so the test split is not used; runs that fall behind the
median are pruned. Only the best trial is evaluated. To resume an interrupted search, run it again.
"""

import argparse
import hashlib
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from image_pipeline.common import paths
from image_pipeline.common.cores import available_cores
from image_pipeline.common.errors import ParamsError, PipelineError
from image_pipeline.common.locks import lock
from image_pipeline.common.params import read_params
from image_pipeline.experiments import options
from image_pipeline.experiments.dvc_queue import Queue, run_experiments, wait_for_dvc
from image_pipeline.experiments.revisions import WORKSPACE, experiments, repository_root, resolve

MAX_TRIALS = 10_000
MAX_JOBS = 1000
MAX_SEED = 1_000_000
SHOWN = 5
LOCK_TIMEOUT = 2.0  # seconds, to wait for another search that is about to end


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("space", nargs="?", help="the search space; without it, all are listed")
    parser.add_argument("--trials", metavar="N", type=int, default=30, help="in all; default: 30")
    parser.add_argument(
        "--jobs", metavar="J", type=int, help="how many runs at once; default: one per core"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the proposals; default: 0")
    parser.add_argument(
        "--picture", metavar="FILE.png", type=Path, help="draw the importance of each key"
    )


def run(arguments: argparse.Namespace) -> int:
    """Search, and print the best trials; return the exit status.

    Raises:
        DataError: results are missing or malformed.
        ParamsError: there is no such search space, or an argument or params.yaml is not valid.
        PipelineError: DVC's queue does not work, or all trials failed.
        RevisionError: this is not a clone of the project, or the picture cannot be written.
    """
    picture: Path | None = arguments.picture
    options.check_picture(picture)
    for option, lowest, highest in (
        ("trials", 2, MAX_TRIALS),
        ("jobs", 1, MAX_JOBS),
        ("seed", 0, MAX_SEED),
    ):
        number = getattr(arguments, option)
        if number is not None and not lowest <= number <= highest:
            raise ParamsError(f"--{option} {number}: give a number from {lowest} to {highest}")
    repository_root()
    from image_pipeline.experiments.search_spaces import SPACES, current_values, read_space

    if arguments.space is None:
        SPACES.print_all()
        return 0
    wait_for_dvc()
    params = read_params()

    import optuna
    from tqdm import tqdm

    from image_pipeline.experiments.config_hash import config_hash
    from image_pipeline.experiments.dvc_runner import DvcRunner, param_overrides
    from image_pipeline.experiments.trials import EXPERIMENT, NUMBER, search

    space = read_space(arguments.space)
    jobs = arguments.jobs or available_cores()
    config = config_hash(resolve(WORKSPACE))
    identity = [config, params.train.seed, space.text, arguments.seed, jobs]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:8]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    paths.CHECKPOINTS.mkdir(exist_ok=True)
    space_file = lock(space.path, LOCK_TIMEOUT)  # two searches would run each other's trials
    if not space_file:
        raise PipelineError(
            f"{space.path}: another search of this space is running; wait until it ends"
        )
    with space_file:
        if hasattr(os, "register_at_fork"):  # the queue's workers outlive this process
            os.register_at_fork(after_in_child=space_file.close)
        study = optuna.create_study(
            study_name=digest,
            direction="maximize",
            storage=f"sqlite:///{paths.CHECKPOINTS / f'search-{digest}.sqlite'}",
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
                current_values(space),
                arguments.trials,
                jobs,
                arguments.seed,
                DvcRunner(digest, queue),
            ):
                bar.update()
                with suppress(ValueError):  # none is complete yet
                    bar.set_postfix_str(f"best validation accuracy {study.best_value:.2%}")
        complete = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
        if not complete:
            raise PipelineError(
                "all trials failed; `dvc queue status` and `dvc queue logs` say why"
            )
        complete.sort(key=lambda t: (t.value, -t.user_attrs[NUMBER]), reverse=True)
        name = f"{complete[0].user_attrs[EXPERIMENT]}-best"
        overrides = param_overrides(complete[0].params)
        if name not in experiments() and run_experiments({name: overrides}, 1, "best trial"):
            raise PipelineError(
                f"the run of the best trial failed; `dvc queue logs {name}` says why"
            )
    _show(study, complete, name, overrides)
    if picture:
        draw_importance(picture, study)
        print(f"search: {picture} shows the importance of each hyperparameter", file=sys.stderr)
    return 0


def _show(study: Any, complete: list[Any], name: str, overrides: list[str]) -> None:
    """Print the first of the complete trials, which are sorted, and the best one's test result."""
    from image_pipeline.experiments.report import text_table
    from image_pipeline.experiments.search_spaces import from_study
    from image_pipeline.experiments.seed_runs import read_seed_runs
    from image_pipeline.experiments.trials import NUMBER

    keys = list(complete[0].params)
    rows = [("trial", "validation", *(key.rpartition(".")[2] for key in keys))]
    for trial in complete[:SHOWN]:
        values = [from_study(trial.params[key]) for key in keys]
        shown = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
        rows.append((str(trial.user_attrs[NUMBER]), f"{trial.value:.2%}", *shown))
    states = [t.state.name for t in study.trials]
    print(
        f"{len(states)} trials: {len(complete)} completed, {states.count('PRUNED')} pruned, "
        f"{states.count('FAIL')} failed. The best:\n\n{text_table(rows)}\n"
    )
    metrics = read_seed_runs({0: experiments()[name]})[0].metrics
    print("Settings of the best trial:\n" + "\n".join(f"  {override}" for override in overrides))
    print(
        f"\nsearch: {name}: validation accuracy {complete[0].value:.2%}, test accuracy "
        f"{metrics['accuracy']:.2%} ({metrics['errors']:.0f} errors), evaluated once; `dvc exp "
        f"apply {name}` applies it, `python -m image_pipeline compare HEAD {name}` compares it"
    )


def draw_importance(path: Path, study: Any) -> None:
    """Draw the share of the variance in validation accuracy that each hyperparameter explains."""
    import optuna

    from image_pipeline.plotting.figures import new_figure, save_figure

    importances = optuna.importance.get_param_importances(study)
    names = list(reversed(importances))
    figure = new_figure(9, 1.5 + 0.4 * len(names))
    axes = figure.subplots()
    axes.barh([name.removeprefix("train.") for name in names], [importances[n] for n in names])
    axes.set(title="Importance for validation accuracy (fANOVA)", xlabel="share of variance")
    save_figure(path, figure)
