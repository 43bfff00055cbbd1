from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from image_pipeline.models import mlp
from image_pipeline.training import microbatching, train
from image_pipeline.training.checkpoint import CheckpointFile
from toy import KEY, choice


@pytest.fixture
def checkpoint(tmp_path: Path) -> CheckpointFile:
    return CheckpointFile(tmp_path / "checkpoints", KEY)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute as a stage does, whose pin gives every library one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_microbatches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a micro-batch have three of the toy's images at most: a batch of 8 has 4 of 2.

    A machine with eight cores computes them.
    """
    monkeypatch.setattr(microbatching, "MICROBATCH_BYTES", 360)
    monkeypatch.setattr(microbatching, "MIN_GHOST_BATCH_SIZE", 2)
    monkeypatch.setattr(train, "available_cores", lambda: 8)


class Layers(nn.Module):
    """What depends on more than weights and images: batch norm's buffers, and a random layer."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(shape[0], 4, 3),
            nn.BatchNorm2d(4),
            nn.GELU(),
            nn.Dropout(0.3),
            nn.Flatten(),
            nn.LazyLinear(classes),
        )
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.seen += len(images)
        logits: Tensor = self.layers(images)
        return logits


@pytest.fixture
def own_network(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Let `Layers` be the network of a name; return the params that choose it."""
    monkeypatch.setattr(mlp, "Model", Layers)
    return choice("mlp")
