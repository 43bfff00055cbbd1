"""Losses and learning-rate schedules, by values worked out by hand."""

import math

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler

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


def rates(schedule: LRScheduler, steps: int) -> list[float]:
    optimizer = schedule.optimizer
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def sgd(**options: float) -> Optimizer:
    return SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.8, **options)  # type: ignore[arg-type]


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


def test_one_cycle_says_what_else_it_changes() -> None:
    weight = [torch.nn.Parameter(torch.zeros(1))]
    note = momentum_note(one_cycle(Adam(weight, lr=0.1), 9))
    assert note.startswith(
        "one_cycle changes the learning rate and Adam's beta1, from 0.95 to 0.85"
    )
    assert "SGD's momentum, from" in momentum_note(one_cycle(sgd(momentum=0.9), 9))
    assert momentum_note(one_cycle(Adam(weight, lr=0.1), 9, cycle_momentum=False)) == ""
    assert momentum_note(cosine(sgd(), 9)) == ""
    adagrad = torch.optim.Adagrad(weight, lr=0.1)  # it has no momentum to change
    assert momentum_note(one_cycle(adagrad, 9)) == ""
