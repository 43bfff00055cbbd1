"""What a data set must be able to do."""

import math
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from image_pipeline.common.errors import DataError, one_line
from image_pipeline.common.schema import Fit

CHUNK_BYTES = 1 << 20
REMEDY = "delete it and run `dvc repro --force download`"


@dataclass(frozen=True)
class RawSplit:
    """A split as the data set's files give it: all labels, and the images as a stream.

    Attributes:
        shape: channels, height and width of every image.
        labels: unsigned integers `[N]`, in the images' order.
        chunks: starts reading; gives the N images in order as uint8 `[n, C, H, W]`, some at a time,
            so that a split may be larger than the memory.
        skipped: files of this split that are no readable images, and were left out as asked.
        fit: how an image of another size becomes one of this shape.
    """

    shape: tuple[int, int, int]
    labels: np.ndarray
    chunks: Callable[[], Iterable[np.ndarray]]
    skipped: int = 0
    fit: Fit = "pad"


def images_per_chunk(shape: tuple[int, ...]) -> int:
    """Return how many images of `shape`, in bytes, make a chunk of a good size."""
    return max(1, CHUNK_BYTES // math.prod(shape))


@contextmanager
def reading(source: object, kind: str) -> Iterator[None]:
    """Say what is wrong with a file that `fetch` brought, if a library fails on it in the block.

    Args:
        source: the file's path, or other words for it.
        kind: what it should be, such as gzip.

    Raises:
        DataError: the file is missing, torn or something else.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{error.filename}: not found; run `dvc repro --force download`") from None
    except (OSError, EOFError, ValueError, tarfile.TarError, zlib.error) as error:
        if isinstance(error, OSError) and error.strerror:  # the system's own
            raise DataError(f"{source}: cannot be read ({error.strerror}); {REMEDY}") from None
        cause = one_line(error) or "it ends too soon"
        raise DataError(f"{source}: not a whole {kind} file ({cause}); {REMEDY}") from None


class Dataset(Protocol):
    """A source of labelled images with an official training and test split."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each label, in the labels' order; known once `read` has read."""

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
