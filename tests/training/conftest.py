from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from image_pipeline.training import microbatching
from image_pipeline.training.checkpoint import CheckpointFile
from toy import KEY


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
    """Let a micro-batch have three of the toy's images at most: a batch of 8 has 4 of 2."""
    monkeypatch.setattr(microbatching, "MICROBATCH_BYTES", 360)
    monkeypatch.setattr(microbatching, "MIN_GHOST_BATCH_SIZE", 2)
