"""All that changes while a model is trained: how it is built, saved and resumed."""

import hashlib
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from image_pipeline.augmenting.randomness import seed_everything
from image_pipeline.common.errors import NetworkError, ParamsError
from image_pipeline.common.paths import PARAMS
from image_pipeline.modeling import networks
from image_pipeline.modeling.model_file import tensors_of
from image_pipeline.modeling.options import bind_choice
from image_pipeline.training.checkpoint import CheckpointFile
from image_pipeline.training.history import EpochRecord
from image_pipeline.training.initial_weights import InitialWeights
from image_pipeline.training.local_group import shared_tensor
from image_pipeline.training.optimizer import build_optimizer
from image_pipeline.training.params import TrainParams
from image_pipeline.training.receipt import Receipt
from image_pipeline.training.schedules import SCHEDULES
from image_pipeline.training.transfer import ALL_EPOCHS, TRANSFERS


class TrainState:
    """The model, its optimizer and learning-rate schedule, and the history so far.

    All random numbers of an epoch come from streams named by seed, epoch and place, so there are no
    generators to be saved.

    Attributes:
        model: the network.
        transfer: which of its layers learn, and when.
        weights: those of its parameters that are trained.
        optimizer: of torch.optim.
        lr_schedule: stepped after each step of the optimizer.
        history: a record per epoch.
        receipt: hashes of what has been computed.
    """

    def __init__(
        self,
        params: TrainParams,
        shape: tuple[int, int, int],
        classes: int,
        steps: int,
        initial_weights: InitialWeights | None = None,
    ) -> None:
        """Build the model with its initial weights, and all that trains it.

        Args:
            params: of the training.
            shape: channels, height and width of an image.
            classes: how many logits there are for an image.
            steps: of the whole training.
            initial_weights: that all layers but the head start from; None: random ones.

        Raises:
            ParamsError: the network, the optimizer or the schedule refuses its options.
            DataError: the initial weights cannot be read, or are another network's.
            NetworkError: the network's file is not what it should be.
        """
        self._params, self._shape, self._classes, self._steps = params, shape, classes, steps
        self._initial_weights = initial_weights
        self._build()

    def _build(self) -> None:
        params, shape, classes = self._params, self._shape, self._classes
        self.history: list[EpochRecord] = []
        seed_everything(params.seed)
        try:
            self.model: nn.Module = networks.build(
                params.model.name, params.model.options, shape, classes
            )
            if self._initial_weights:
                self._initial_weights.load_into(self.model, params.model.name, classes)
        except NetworkError as error:
            if str(error).startswith("train."):
                raise ParamsError(f"{PARAMS}: {error}") from error
            raise
        self.receipt = Receipt(self.model)
        make_transfer = bind_choice(f"{PARAMS}: train.transfer", params.transfer, TRANSFERS)
        head = networks.head(self.model, classes)
        self.transfer = make_transfer(self.model, head and self.model.get_submodule(head))
        groups = self.transfer.parameter_groups(params.learning_rate)
        if self.transfer.trained is not self.model and not self._initial_weights:
            raise ParamsError(
                f"{PARAMS}: train.transfer.name: {params.transfer.name} would keep random weights "
                f"as they are; set train.model.{params.model.name}.pretrained: true where the "
                "network has it, or weights.path to a file of your own"
            )
        if params.epochs < self.transfer.frozen_epochs < ALL_EPOCHS:
            raise ParamsError(
                f"{PARAMS}: train.transfer.{params.transfer.name}.frozen_epochs: "
                f"{self.transfer.frozen_epochs} is above train.epochs, which is {params.epochs}; "
                "lower it"
            )
        self.weights = [weight for group in groups for weight in group["params"]]
        if not self.weights:
            raise ParamsError(
                f"{PARAMS}: train.model.name: {params.model.name} has no weights to train"
            )
        # In shared memory: every micro-batch of a step begins with these buffers, whichever process
        # computes it, and those that the first one leaves are kept.
        self._buffers = {
            name: shared_tensor(tuple(buffer.shape), buffer.dtype).copy_(buffer)
            for name, buffer in self.transfer.trained.named_buffers()
        }
        self.new_buffers = self._buffers
        self.optimizer = build_optimizer(params, groups)
        make_schedule = bind_choice(f"{PARAMS}: train.lr_schedule", params.lr_schedule, SCHEDULES)
        self.lr_schedule = make_schedule(self.optimizer, self._steps)

    def reset_buffers(self) -> None:
        """Give this process's model the buffers that the last step left."""
        if self._buffers:
            for name, buffer in self.transfer.trained.named_buffers():
                buffer.copy_(self._buffers[name])

    def keep_buffers(self) -> None:
        """Keep this process's buffers for the next step."""
        self.new_buffers = {
            name: buffer.detach().clone() for name, buffer in self.transfer.trained.named_buffers()
        }

    def step(self) -> None:
        """Update the weights by their gradients, the learning rate, and the buffers."""
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.lr_schedule.step()
        for name, buffer in self._buffers.items():
            buffer.copy_(self.new_buffers[name])

    def digest(self) -> bytes:
        """Return a hash of weights and buffers."""
        digest = hashlib.sha256()
        for tensor in (*self.weights, *self._buffers.values()):
            digest.update(tensor.detach().flatten().view(torch.uint8).numpy().data)
        return digest.digest()

    def save(self, checkpoint: CheckpointFile) -> None:
        """Write a checkpoint."""
        self.reset_buffers()
        checkpoint.save(
            {
                "model": tensors_of(self.transfer.trained),
                "optimizer": self.optimizer.state_dict(),
                "lr_schedule": self.lr_schedule.state_dict(),
                "history": [asdict(record) for record in self.history],
                "receipt": self.receipt.lines,
            }
        )

    def resume(self, checkpoint: CheckpointFile) -> None:
        """Load the checkpoint, where there is one that can be used."""
        state = checkpoint.load()
        if state is None:
            return
        try:
            self._load(state)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            checkpoint.ignore(f"not of this training's form ({type(error).__name__})")
            self._build()  # some of it may have been loaded before the fault
            return
        print(f"train: going on after epoch {len(self.history)} from {checkpoint.path}")

    def _load(self, state: dict[str, Any]) -> None:
        for name, tensor in tensors_of(self.transfer.trained).items():
            if state["model"][name].shape != tensor.shape:
                raise ValueError(f"{name} has the shape {tuple(state['model'][name].shape)}")
            tensor.copy_(state["model"][name])
        for name, buffer in self.transfer.trained.named_buffers():
            self._buffers[name].copy_(buffer)
        self.optimizer.load_state_dict(state["optimizer"])
        self.lr_schedule.load_state_dict(state["lr_schedule"])
        self.history = [EpochRecord(**record) for record in state["history"]]
        self.receipt = Receipt(self.model, **state["receipt"])
        if not 0 < len(self.history) == len(self.receipt.epochs) < self._params.epochs:
            raise ValueError(f"{len(self.history)} of {self._params.epochs} epochs")
