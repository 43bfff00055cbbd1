"""What learns, to choose from by `train.transfer.name`: the whole network, or its last layer.

The last layer of a pretrained network, its head, is new; the layers before it, its backbone, can
tell images apart already. A way to learn takes the network, its head and keyword options, the block
`train.transfer.<name>` of params.yaml. To add one, write a function and a line in `TRANSFERS`.
"""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field
from torch import nn

from image_pipeline.common.errors import ParamsError
from image_pipeline.common.paths import PARAMS

ALL_EPOCHS = 10_000  # as many as a training can have
BATCH_NORMS = nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm


class Transfer:
    """Which layers learn in which epoch, and how fast.

    Attributes:
        model: the network.
        head: its last layer; None: all layers learn alike.
        frozen_epochs: the first ones, in which the backbone stays as it is.
        trained: what changes in any epoch, the head or the whole network.
    """

    def __init__(
        self,
        model: nn.Module,
        head: nn.Module | None = None,
        frozen_epochs: int = 0,
        backbone_learning_rate: float = 1.0,
    ) -> None:
        """Take the network, and the backbone's learning rate as a share of the head's."""
        self.model, self.head, self.frozen_epochs = model, head, frozen_epochs
        self.trained = head if head and frozen_epochs == ALL_EPOCHS else model
        self._backbone_learning_rate = backbone_learning_rate
        of_head = {id(weight) for weight in head.parameters()} if head else set()
        self._head = [
            weight
            for weight in model.parameters()
            if weight.requires_grad and (not head or id(weight) in of_head)
        ]
        self._backbone = [
            weight
            for weight in model.parameters()
            if weight.requires_grad and head and id(weight) not in of_head
        ]

    def frozen(self, epoch: int) -> bool:
        """Return whether the backbone stays as it is in this epoch, from 1."""
        return epoch <= self.frozen_epochs

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Return what torch.optim takes: the weights that learn, and their learning rates."""
        groups = [{"params": self._head, "lr": learning_rate}]
        if self._backbone and self.trained is self.model:
            backbone = learning_rate * self._backbone_learning_rate
            groups.insert(0, {"params": self._backbone, "lr": backbone})
        return groups

    def begin_epoch(self, epoch: int) -> None:
        """Put the layers in training mode; in evaluation mode those that are frozen.

        Batch norm keeps the statistics of the images that the backbone has learnt from: those of a
        micro-batch of eight photographs are too noisy.
        """
        frozen = self.frozen(epoch)
        self.model.train(not frozen)
        for weight in self._backbone:
            weight.requires_grad_(not frozen)
        for layer in self.model.modules() if self.head else ():
            if isinstance(layer, BATCH_NORMS):
                layer.eval()


def none(model: nn.Module, head: nn.Module | None) -> Transfer:
    """All layers learn alike, from whatever weights they begin with."""
    del head
    return Transfer(model)


def frozen(model: nn.Module, head: nn.Module | None) -> Transfer:
    """Only the head learns."""
    return Transfer(model, _required(head, "frozen"), ALL_EPOCHS)


def fine_tune(
    model: nn.Module,
    head: nn.Module | None,
    *,
    backbone_learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.1,
    frozen_epochs: Annotated[int, Field(ge=0, lt=ALL_EPOCHS)] = 1,
) -> Transfer:
    """All layers learn.

    Args:
        model: the network.
        head: its last layer.
        backbone_learning_rate: of all other layers, as a share of `train.learning_rate`.
        frozen_epochs: the first ones, in which only the head learns.
    """
    return Transfer(model, _required(head, "fine_tune"), frozen_epochs, backbone_learning_rate)


TRANSFERS: dict[str, Callable[..., Transfer]] = {
    "none": none,
    "frozen": frozen,
    "fine_tune": fine_tune,
}


def _required(head: nn.Module | None, name: str) -> nn.Module:
    if head is None:
        raise ParamsError(
            f"{PARAMS}: train.transfer.name: {name} needs a network whose last layer, nn.Linear or "
            "a 1x1 convolution, has an output per class; this one has none: choose another "
            "train.model, or none"
        )
    return head
