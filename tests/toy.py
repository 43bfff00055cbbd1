"""A toy problem: random images of three classes, and trainings on them."""

from typing import Any

import numpy as np
import torch

from image_pipeline.augmenting.params import AUGMENTATION_AMOUNTS
from image_pipeline.common.params import read_params
from image_pipeline.tensors.tensor_files import DatasetInfo, Split
from image_pipeline.training.checkpoint import CheckpointFile
from image_pipeline.training.host_group import HostGroup
from image_pipeline.training.initial_weights import InitialWeights
from image_pipeline.training.params import TrainParams
from image_pipeline.training.train import Trainer
from project import ROOT

COMMITTED = read_params(ROOT / "params.yaml")
FLAT = {**COMMITTED.train.augmentation.model_dump(), **dict.fromkeys(AUGMENTATION_AMOUNTS, 0)}
KEY = "k" * 64
SHAPE = (1, 5, 6)


def make_split(count: int, seed: int, shape: tuple[int, int, int] = SHAPE) -> Split:
    """Return random images whose first pixel is their number."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, *shape), np.uint8)
    images[:, 0, 0, 0] = np.arange(count)
    info = DatasetInfo("toy", ("a", "b", "c"), (0.5,) * shape[0], (0.29,) * shape[0])
    return Split(torch.from_numpy(images), torch.from_numpy(rng.integers(0, 3, count)), info)


def choice(name: str, **options: Any) -> dict[str, Any]:
    """Return the block of params.yaml that chooses a name, with its options."""
    return {"name": name, name: options}


def make_trainer(
    images: tuple[int, int] = (30, 9),
    shape: tuple[int, int, int] = SHAPE,
    hosts: HostGroup | None = None,
    weights: InitialWeights | None = None,
    **changes: Any,
) -> Trainer:
    """Return a training on so many images, with so many for validation.

    `changes` are of the params of `train` and of `machine`.
    """
    small = {"model": choice("mlp", hidden_sizes=[6]), "epochs": 4, "batch_size": 8}
    own = ("cores", "checkpoint_every")
    of_machine: dict[str, Any] = {key: changes.pop(key) for key in own if key in changes}
    params = TrainParams.model_validate(COMMITTED.train.model_dump() | small | changes)
    machine = COMMITTED.machine.model_copy(update=of_machine)
    split, validation = (make_split(count, seed, shape) for seed, count in enumerate(images))
    return Trainer(split, validation, params, machine, hosts, weights)


def train(run: Trainer, checkpoint: CheckpointFile, stop_after: int | None = None) -> Trainer:
    """Train; stop as a kill would, after so many epochs and their checkpoints."""
    for history in run.train(checkpoint):
        if len(history) == stop_after:
            break
    return run


def bits(run: Trainer) -> dict[str, bytes]:
    """Return every weight and buffer, those that are in no file, too."""
    tensors = (*run.state.model.named_parameters(), *run.state.model.named_buffers())
    return {name: tensor.detach().numpy().tobytes() for name, tensor in tensors}


def result(run: Trainer) -> tuple[dict[str, bytes], object, object]:
    """Return what must be the same to the bit."""
    return bits(run), run.state.history, run.state.receipt.lines
