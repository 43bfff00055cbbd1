"""Loss and accuracy, epoch by epoch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EpochRecord:
    """One epoch: mean losses (nats) and accuracies (0 to 1).

    The training figures come from the steps themselves: the loss of `train.loss`, on augmented
    images, with weights that change from step to step. The validation figures are taken at the
    epoch's end; their loss is cross-entropy whatever is trained with, so that runs can be compared.
    """

    epoch: int
    train_loss: float
    validation_loss: float
    train_accuracy: float
    validation_accuracy: float
