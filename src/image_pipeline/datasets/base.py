"""What a data set must be able to do."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class RawSplit:
    """Images uint8 `[N, C, H, W]` and labels int64 `[N]`, as the data set's files give them."""

    images: np.ndarray
    labels: np.ndarray


class Dataset(Protocol):
    """A source of labelled images with an official training and test split."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each label, in the labels' order."""

    def fetch(self, folder: Path, mirror: str | None) -> None:
        """Bring the original files into `folder`, each under its name only when it is right.

        Args:
            folder: made if need be; files that are there and right are kept.
            mirror: an http(s) address or a local folder that is asked first, or None.

        Raises:
            DownloadError: a file could not be had from any mirror.
        """

    def read(self, folder: Path) -> tuple[RawSplit, RawSplit]:
        """Read the training and the test split from the files that `fetch` brought.

        Raises:
            DataError: a file is missing or is not what it should be.
        """
