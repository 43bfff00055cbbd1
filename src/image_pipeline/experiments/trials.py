"""The trials of a search: proposed by Optuna, run by DVC, and the same however the search is timed.

Trial k is proposed from, and pruned by comparison with, the trials 0 to k - jobs only, whatever
else has finished by then. So neither the speed of a run nor a kill changes the proposals, and the
finished trials are all the state that has to be kept.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import optuna
import pandas as pd
from optuna.distributions import BaseDistribution
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from image_pipeline.experiments.dvc_runner import DvcRunner

NUMBER, EXPERIMENT = "number", "experiment"  # user attributes of a finished trial
STARTUP_TRIALS = 10  # proposed at random; none is pruned until so many have finished
PRUNING_STEPS = 20  # per run, at which it is compared with the others
WARMUP_STEPS = 4  # before the first at which a run can be pruned
POLL_SECONDS = 0.5
METRIC = "validation_accuracy"


@dataclass
class Running:
    """A running trial, in a study of its own; `rows` of its curves have been reported."""

    name: str
    trial: Trial
    rows: int = 0


def search(
    study: optuna.Study,
    distributions: dict[str, BaseDistribution],
    current: dict[str, Any] | None,
    trials: int,
    jobs: int,
    seed: int,
    runner: DvcRunner,
) -> Iterator[FrozenTrial]:
    """Run trials until a study has a given number of finished ones.

    Args:
        study: keeps the finished trials.
        distributions: the search space.
        current: the values of the first trial, if any.
        trials: the total number.
        jobs: how many run at once.
        seed: of the proposals.
        runner: runs the trials.

    Yields:
        Each trial when it has finished.
    """
    finished = {trial.user_attrs[NUMBER]: trial for trial in study.trials}
    running: dict[int, Running] = {}
    following = 0

    def propose(number: int) -> Trial:
        known_study = optuna.create_study(
            direction="maximize",
            sampler=TPESampler(seed=seed * 100_003 + number, n_startup_trials=STARTUP_TRIALS),
            pruner=MedianPruner(STARTUP_TRIALS, n_warmup_steps=WARMUP_STEPS),
        )
        known_study.add_trials([finished[before] for before in range(number - jobs + 1)])
        if number == 0 and current:
            known_study.enqueue_trial(current)
        return known_study.ask(distributions)

    def finish(number: int, state: TrialState, value: float | None) -> FrozenTrial:
        run = running.pop(number)
        frozen = run.trial.study.trials[-1]
        done = create_trial(
            state=state,
            value=value,
            params=frozen.params,
            distributions=frozen.distributions,
            intermediate_values=frozen.intermediate_values,
            user_attrs={NUMBER: number, EXPERIMENT: run.name},
        )
        study.add_trial(done)
        finished[number] = done
        return done

    while len(finished) < trials:
        while (
            following < trials
            and len(running) < jobs
            and all(before in finished for before in range(following - jobs + 1))
        ):
            if following not in finished:
                trial = propose(following)
                running[following] = Running(runner.start(following, trial.params), trial)
            following += 1
        succeeded, failed = runner.poll()
        for number, run in list(running.items()):
            prune, last = _report_new_epochs(run, *runner.curves(run.name))
            if prune:
                if run.name not in succeeded | failed:
                    runner.prune(run.name)
                yield finish(number, TrialState.PRUNED, last)
            elif run.name in succeeded:
                yield finish(number, TrialState.COMPLETE, last)
            elif run.name in failed:
                yield finish(number, TrialState.FAIL, None)
        time.sleep(POLL_SECONDS)


def _report_new_epochs(run: Running, curves: pd.DataFrame, epochs: int) -> tuple[bool, float]:
    """Report new epochs to Optuna; return whether to prune the run, and its last value."""
    last = float("nan")
    for row in curves.iloc[run.rows :].to_dict("records"):
        run.rows += 1
        last = float(row[METRIC])
        step = int(row["epoch"]) * PRUNING_STEPS // epochs
        if step == (int(row["epoch"]) - 1) * PRUNING_STEPS // epochs:
            continue
        run.trial.report(last, step)
        if step < PRUNING_STEPS and run.trial.should_prune():
            return True, last
    if len(curves):
        last = float(curves[METRIC].iloc[-1])
    return False, last
