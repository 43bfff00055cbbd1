"""Loss and accuracy, epoch by epoch."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pandas as pd


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


def history_table(history: Sequence[EpochRecord]) -> pd.DataFrame:
    """Return the history as plots/history.csv has it, a row per epoch."""
    return pd.DataFrame([asdict(record) for record in history])
