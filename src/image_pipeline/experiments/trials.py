"""The trials of a search: proposed by Optuna, run by DVC, the same ones whatever happens meanwhile.

Trial k is proposed from the results of the trials 0 to k - jobs, and given up by comparison with
these, whatever else has ended by then. So neither the speed of a run nor a kill changes what is
proposed, and what has ended is all that has to be kept.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import optuna
import pandas as pd
from optuna.distributions import BaseDistribution
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

NUMBER, EXPERIMENT = "number", "experiment"  # a finished trial's own attributes
STARTUP = 10  # trials proposed at random, and that no other is given up for
POINTS = 20  # of a run at which it is compared with the others
FIRST_POINT = 4  # before it, none is given up
PAUSE = 0.5  # seconds
METRIC = "validation_accuracy"


class Runner(Protocol):
    """What runs a trial."""

    def start(self, number: int, values: dict[str, Any]) -> str:
        """Start a trial with these values of the space; return the experiment's name."""

    def ended(self) -> tuple[set[str], set[str]]:
        """Return which experiments have ended well, and which failed, since the last call."""

    def curves(self, name: str) -> tuple[pd.DataFrame, int]:
        """Return the epochs that a run has behind it, and how many it will have."""

    def give_up(self, name: str) -> None:
        """End a run."""


@dataclass
class Running:
    """A trial at work, in a study of its own; `rows` of its curves have been looked at."""

    name: str
    trial: Trial
    rows: int = 0


def search(
    study: optuna.Study,
    distributions: dict[str, BaseDistribution],
    present: dict[str, Any] | None,
    trials: int,
    jobs: int,
    seed: int,
    runner: Runner,
) -> Iterator[FrozenTrial]:
    """Bring a study to so many finished trials.

    Args:
        study: which keeps those that have finished.
        distributions: what may vary.
        present: the values that are tried first, if any.
        trials: how many in all.
        jobs: how many run at once.
        seed: of what is proposed.
        runner: what runs them.

    Yields:
        Each trial when it has finished.
    """
    finished = {trial.user_attrs[NUMBER]: trial for trial in study.trials}
    running: dict[int, Running] = {}
    following = 0

    def propose(number: int) -> Trial:
        known = [finished[before] for before in range(number - jobs + 1)]
        memory = optuna.create_study(
            direction="maximize",
            sampler=TPESampler(seed=seed * 100_003 + number, n_startup_trials=STARTUP),
            pruner=MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=FIRST_POINT),
        )
        memory.add_trials(known)
        if number == 0 and present:
            memory.enqueue_trial(present)
        return memory.ask(distributions)

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
        well, failed = runner.ended()
        for number, run in list(running.items()):
            hopeless, last = _look(run, *runner.curves(run.name))
            if hopeless:
                if run.name not in well | failed:
                    runner.give_up(run.name)
                yield finish(number, TrialState.PRUNED, last)
            elif run.name in well:
                yield finish(number, TrialState.COMPLETE, last)
            elif run.name in failed:
                yield finish(number, TrialState.FAIL, None)
        time.sleep(PAUSE)


def _look(run: Running, curves: pd.DataFrame, epochs: int) -> tuple[bool, float]:
    """Report the epochs that are new; return whether the run is hopeless, and the last value."""
    last = float("nan")
    for row in curves.iloc[run.rows :].to_dict("records"):
        run.rows += 1
        last = float(row[METRIC])
        point = int(row["epoch"]) * POINTS // epochs
        if point == (int(row["epoch"]) - 1) * POINTS // epochs:
            continue
        run.trial.report(last, point)
        if point < POINTS and run.trial.should_prune():
            return True, last
    if len(curves):
        last = float(curves[METRIC].iloc[-1])
    return False, last
