"""Loss and accuracy, epoch by epoch."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from image_pipeline.serialization import write_csv


@dataclass(frozen=True)
class EpochRecord:
    """One epoch: mean losses (nats) and accuracies (0 to 1).

    The training figures are those of the steps themselves: augmented images, smoothed labels, and
    weights that change from step to step. The validation figures are taken at the epoch's end.
    """

    epoch: int
    train_loss: float
    validation_loss: float
    train_accuracy: float
    validation_accuracy: float


COLUMNS = list(EpochRecord.__dataclass_fields__)


def write_history(path: Path, history: Sequence[EpochRecord]) -> None:
    """Write one row per epoch."""
    write_csv(path, pd.DataFrame([asdict(record) for record in history], columns=COLUMNS))
