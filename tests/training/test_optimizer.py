"""The optimizers are torch's own, to the bit, without the import of its compiler."""

import sys
from typing import Any

import pytest
import torch
from torch import nn

from image_pipeline.training.optimizer import optimizer_names, without_compiler
from project import ROOT, run

SCRIPT = """
import sys
import torch
from image_pipeline.common.params import read_params
from image_pipeline.training.optimizer import build_optimizer
from image_pipeline.modeling.options import bind_choice
from image_pipeline.training.schedules import SCHEDULES
weight = torch.nn.Parameter(torch.ones(2))
params = read_params().train
optimizer = build_optimizer(params, [weight])
schedule = bind_choice("train.lr_schedule", params.lr_schedule, SCHEDULES)(optimizer, 2)
weight.sum().backward()
optimizer.step()
optimizer.zero_grad()
optimizer.load_state_dict(optimizer.state_dict())
schedule.step()
print("torch._dynamo" in sys.modules)
"""


@pytest.mark.parametrize("name", optimizer_names())
def test_steps_are_torchs_own(name: str) -> None:
    found = []
    own: Any = getattr(torch.optim, name)
    makes: tuple[Any, ...] = (own, without_compiler(own))
    for make in makes:
        torch.manual_seed(0)
        layer = nn.Linear(5, 3, bias=False)  # a matrix alone: Muon takes nothing else
        optimizer = make(layer.parameters(), lr=0.01)
        for _ in range(3):
            layer(torch.randn(4, 5)).pow(2).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            optimizer.load_state_dict(optimizer.state_dict())
        assert not any(value.requires_grad for value in optimizer.state[layer.weight].values())
        found.append(layer.weight.detach())
    assert torch.equal(*found)


def test_training_does_not_import_the_compiler() -> None:
    done = run(sys.executable, "-W", "error", "-c", SCRIPT, cwd=ROOT, check=False)
    assert (done.stdout, done.stderr) == ("False\n", "")
