"""The learning-rate schedules to choose from by `train.lr_schedule.name`.

A schedule takes the optimizer, the number of steps of the training and keyword options, the block
`train.lr_schedule.<name>` of params.yaml, and returns a scheduler of torch that is stepped after
each step of the optimizer. To add one, write a function and a line in `SCHEDULES`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Annotated

from pydantic import Field
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

Fraction = Annotated[float, Field(gt=0, lt=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]


def constant(optimizer: Optimizer, steps: int) -> LRScheduler:
    """The learning rate stays as it is."""
    del steps
    return LambdaLR(optimizer, lambda _: 1.0)


def one_cycle(
    optimizer: Optimizer,
    steps: int,
    *,
    warmup_fraction: Fraction = 0.2,
    cycle_momentum: bool = True,
    base_momentum: Momentum = 0.85,
    max_momentum: Momentum = 0.95,
) -> LRScheduler:
    """Up to the learning rate, then down to nearly 0, in straight lines.

    Source: Smith and Topin, "Super-Convergence" (2017), as torch's OneCycleLR.

    Args:
        optimizer: whose learning rates are the peaks.
        steps: of the whole training.
        warmup_fraction: share of the steps on the way up.
        cycle_momentum: whether the momentum (SGD's, or Adam's first beta) moves the other way.
        base_momentum: at the peak.
        max_momentum: at the start and the end.
    """
    steps = max(2, steps)
    has_momentum = bool({"momentum", "betas"} & optimizer.defaults.keys())
    return OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=steps,
        # A way up of one step would have no length, which torch would divide by.
        pct_start=warmup_fraction if warmup_fraction * steps > 1 else 0.0,
        final_div_factor=1000,
        # The default's cosine would come from the system's maths library.
        anneal_strategy="linear",
        cycle_momentum=cycle_momentum and has_momentum,
        base_momentum=base_momentum,
        max_momentum=max_momentum,
    )


def cosine(optimizer: Optimizer, steps: int) -> LRScheduler:
    """From the learning rate down to 0 along half a cosine.

    Source: Loshchilov and Hutter, "SGDR" (2017), without restarts.
    """

    def factor(step: int) -> float:
        # Rounded, because the last bit of a cosine depends on the system's maths library.
        return round((1 + math.cos(math.pi * min(step / steps, 1.0))) / 2, 9)

    return LambdaLR(optimizer, factor)


def step(
    optimizer: Optimizer,
    steps: int,
    *,
    milestones: Sequence[Fraction] = (0.5, 0.75),
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1,
) -> LRScheduler:
    """The learning rate times `gamma` at each milestone.

    Args:
        optimizer: whose learning rate is the first.
        steps: of the whole training.
        milestones: shares of the steps.
        gamma: factor at each.
    """

    def factor(number: int) -> float:
        return math.prod(gamma for milestone in milestones if number >= milestone * steps)

    return LambdaLR(optimizer, factor)


SCHEDULES: dict[str, Callable[..., LRScheduler]] = {
    "one_cycle": one_cycle,
    "cosine": cosine,
    "step": step,
    "constant": constant,
}


def momentum_note(schedule: LRScheduler) -> str:
    """Return words on how a schedule changes the momentum, too; empty if it does not."""
    if not getattr(schedule, "cycle_momentum", False):
        return ""
    optimizer = schedule.optimizer
    [group, *_] = optimizer.param_groups
    momentum = "beta1" if "betas" in group else "momentum"
    high, low = group["max_momentum"], group["base_momentum"]
    return (
        f"one_cycle changes the learning rate and {type(optimizer).__name__}'s {momentum}, from "
        f"{high:g} to {low:g} and back (train.lr_schedule.one_cycle.cycle_momentum)"
    )
