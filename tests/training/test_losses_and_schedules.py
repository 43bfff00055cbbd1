"""Losses and learning-rate schedules, by values worked out by hand."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from image_pipeline.modeling.options import check_options
from image_pipeline.training.losses import cross_entropy, focal
from image_pipeline.training.schedules import constant, cosine, momentum_note, one_cycle, step

LOGITS = torch.log(torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]))
LABELS = torch.tensor([0, 1])


def test_losses_are_sums_over_images() -> None:
    assert cross_entropy(LOGITS, LABELS).item() == pytest.approx(-math.log(0.5) - math.log(0.1))
    by_hand = -(0.5**2) * math.log(0.5) - 0.9**2 * math.log(0.1)
    assert focal(LOGITS, LABELS).item() == pytest.approx(by_hand)


def test_focal_with_gamma_0_is_cross_entropy() -> None:
    assert focal(LOGITS, LABELS, gamma=0).item() == pytest.approx(
        cross_entropy(LOGITS, LABELS).item()
    )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_the_gradients_of_the_focal_loss(gamma: float) -> None:
    def loss(logits: Tensor) -> Tensor:
        return focal(logits, LABELS, gamma=gamma)

    assert torch.autograd.gradcheck(loss, LOGITS.double().requires_grad_())
    sure = torch.tensor([[100.0, -100.0], [-100.0, 100.0]], requires_grad=True)
    focal(sure, LABELS, gamma=gamma).backward()
    assert sure.grad is not None
    assert torch.isfinite(sure.grad).all()


def rates(schedule: LRScheduler, steps: int, setting: str = "lr") -> list[Any]:
    """Return a setting of the optimizer at each step."""
    optimizer = schedule.optimizer
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0][setting])
        optimizer.step()
        schedule.step()
    return found


def sgd(**options: float) -> Optimizer:
    return SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.8, **options)  # type: ignore[arg-type]


def adam(rate: float) -> Optimizer:
    return Adam([torch.nn.Parameter(torch.zeros(1))], lr=rate)


def test_schedules_by_hand() -> None:
    assert rates(constant(sgd(), 4), 4) == [0.8] * 4
    quarter = (1 + math.cos(math.pi / 4)) / 2
    expected = [0.8, 0.8 * quarter, 0.4, 0.8 * (1 - quarter), 0.0]
    assert rates(cosine(sgd(), 4), 5) == pytest.approx(expected, abs=1e-8)
    expected = [0.8, 0.8, 0.08, 0.008]
    assert rates(step(sgd(), 4), 4) == pytest.approx(expected)
    assert rates(step(sgd(), 4, milestones=[0.25], gamma=0.5), 4) == [0.8, 0.4, 0.4, 0.4]


def test_the_same_schedule_gives_the_same_bits_anywhere() -> None:
    """The factor of cosine has nine decimals: those that every maths library agrees on."""
    for number, rate in enumerate(rates(cosine(sgd(), 1000), 1000)):
        assert rate == 0.8 * round((1 + math.cos(math.pi * number / 1000)) / 2, 9)


def checked_one_cycle(steps: int, **options: Any) -> LRScheduler:
    """Return a schedule of Adam, its options checked as those in params.yaml are."""
    return one_cycle(adam(0.01), steps, **check_options("one_cycle", one_cycle, options))


def test_one_cycle_goes_up_and_down_in_straight_lines() -> None:
    # From a 25th of the peak at step 0 to the peak at step 0.25 * 16 - 1 = 3, and to a 1000th of
    # where it began at the last step, 15. Adam's beta1 goes the other way.
    options = {"warmup_fraction": 0.25, "base_momentum": 0.8, "max_momentum": 0.9}
    begin, peak, end = 0.01 / 25, 0.01, 0.01 / 25 / 1000
    expected = [*np.linspace(begin, peak, 4), *np.linspace(peak, end, 13)[1:]]
    assert rates(checked_one_cycle(16, **options), 16) == pytest.approx(expected)
    betas = rates(checked_one_cycle(16, **options), 16, "betas")
    expected = [*np.linspace(0.9, 0.8, 4), *np.linspace(0.8, 0.9, 13)[1:]]
    assert [beta1 for beta1, _ in betas] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("steps", "warmup"), [(1, 0.25), (1, 0.999999), (4, 0.25), (4, 1e-300), (4, 0.99)]
)
def test_short_runs_can_be_scheduled(steps: int, warmup: float) -> None:
    found = rates(checked_one_cycle(steps, warmup_fraction=warmup), steps)
    assert all(0 < rate <= 0.01 for rate in found)


def test_one_cycle_says_what_else_it_changes() -> None:
    note = momentum_note(one_cycle(adam(0.1), 9))
    said = "one_cycle changes the learning rate and Adam's beta1, from 0.95 to 0.85"
    assert note.startswith(said)
    assert "SGD's momentum, from" in momentum_note(one_cycle(sgd(momentum=0.9), 9))
    assert momentum_note(one_cycle(adam(0.1), 9, cycle_momentum=False)) == ""
    assert momentum_note(cosine(sgd(), 9)) == ""
    # It has no momentum to change.
    adagrad = torch.optim.Adagrad([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    assert momentum_note(one_cycle(adagrad, 9)) == ""
