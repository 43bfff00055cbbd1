"""Hashes of what a training computes, in the order in which it is computed.

Two runs of the same params and data can be held against each other by their receipts alone, and the
first hash that differs says where they part (`python -m image_pipeline verify --against`). A line
of a receipt is a name and the first 16 hexadecimal digits of a SHA-256 of the tensor's dtype, shape
and values. There is no clock, host or version in it, and nothing that depends on the number of
processes: the outputs of layers are those of the first micro-batch, which is always rank 0's.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from image_pipeline.common.hashes import sha256
from image_pipeline.numerics.torch_private import tree_leaves
from image_pipeline.training.loader import MicroBatch
from image_pipeline.training.params import TrainParams

DIGITS = 16
ABOUT = "each hash: the first 16 hexadecimal digits of a SHA-256"


class Receipt:
    """What is recorded while a model is trained.

    Attributes:
        initial_weights: the state dict before the first step.
        first_step: the first micro-batch, and each layer's output for it; the losses of all
            micro-batches; the gradient of each parameter, from the last one to the first, as
            `backward` computes them; the state dict after the step.
        epochs: all trained weights and buffers after each epoch, one hash for each.
    """

    def __init__(
        self,
        model: nn.Module,
        initial_weights: Sequence[str] = (),
        first_step: Sequence[str] = (),
        epochs: Sequence[str] = (),
    ) -> None:
        """Begin a receipt, or go on with the lines of a checkpoint."""
        self._model = model
        self.initial_weights = [*initial_weights]
        self.first_step = [*first_step]
        self.epochs = [*epochs]

    @property
    def lines(self) -> dict[str, list[str]]:
        """The lines so far, for a checkpoint."""
        return {
            "initial_weights": self.initial_weights,
            "first_step": self.first_step,
            "epochs": self.epochs,
        }

    def begin(self) -> None:
        """Record the initial weights."""
        self.initial_weights = self._state_lines()

    @contextmanager
    def record_forward(self, microbatch: MicroBatch) -> Iterator[None]:
        """Record a micro-batch, and the output of each layer of the model that the block runs."""
        names = {layer: name for name, layer in self._model.named_modules()}
        calls: Counter[str] = Counter()

        def record(layer: nn.Module, _inputs: Any, output: Any) -> None:
            tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
            if layer in names and tensors:
                name = f"layer `{names[layer]}`" if names[layer] else "network"
                calls[name] += 1
                again = f", call {calls[name]}" if calls[name] > 1 else ""
                self._add(f"output of the {name}{again}", *tensors)

        self._add("input", microbatch.images)
        self._add("target", microbatch.labels)
        hook = register_module_forward_hook(record)
        try:
            yield
        finally:
            hook.remove()

    def record_backward(self, losses: Tensor) -> None:
        """Record the losses of all micro-batches, and the batch's gradients."""
        self._add("loss", losses)
        for name, weight in reversed(list(self._model.named_parameters())):
            if weight.grad is not None:
                self._add(f"gradient of `{name}`", weight.grad)

    def record_update(self) -> None:
        """Record the state dict after the step."""
        self.first_step += self._state_lines("updated ")

    def record_epoch(self, digest: bytes) -> None:
        """Record a SHA-256 of all trained weights and buffers."""
        self.epochs.append(f"epoch {len(self.epochs) + 1}: {digest.hex()[:DIGITS]}")

    def as_dict(self, params: TrainParams, inputs: Iterable[Path]) -> dict[str, list[str]]:
        """Return the whole receipt, after the last epoch.

        All values are lists, which DVC, to which the file is one of metrics, does not show.

        Args:
            params: of the training.
            inputs: the files that it read.
        """
        settings = sorted(params.effective().items())
        return {
            "about": [ABOUT],
            "params": [f"train.{key}: {json.dumps(v, sort_keys=True)}" for key, v in settings],
            "inputs": [f"{path.as_posix()}: {sha256(path)[:DIGITS]}" for path in inputs],
            **self.lines,
            "final_weights": self._state_lines(),
        }

    def _add(self, name: str, *tensors: Tensor) -> None:
        self.first_step.append(f"{name}: {hash_tensors(tensors)}")

    def _state_lines(self, kind: str = "") -> list[str]:
        state = self._model.state_dict().items()
        return [f"{kind}`{name}`: {hash_tensors([tensor])}" for name, tensor in state]


def hash_tensors(tensors: Iterable[Tensor]) -> str:
    """Return the hash of the dtypes, shapes and values of tensors, whatever their memory format."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
        values = tensor.detach()
        values = values if values.layout == torch.strided else values.to_dense()
        values = values.resolve_conj().resolve_neg().flatten()
        digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:DIGITS]
