"""The IDX format of the MNIST family, gzip-compressed.

Four bytes (0, 0, type, rank), one big-endian uint32 per dimension, the values. Type 8 is uint8,
the only one these data sets use. Source: the description on the original MNIST page.
"""

import gzip
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from image_pipeline.errors import DataError, one_line

UINT8 = 8
MAX_BYTES = 1 << 33
REMEDY = "delete it and run `dvc repro --force download`"


@contextmanager
def _open_idx(path: Path, rank: int) -> Iterator[tuple[gzip.GzipFile, tuple[int, ...]]]:
    """Open a file behind its header; what goes wrong in the block is wrong with the file."""
    try:
        with gzip.open(path) as file:
            header = file.read(4 + 4 * rank)
            if len(header) < 4 + 4 * rank or header[:4] != bytes((0, 0, UINT8, rank)):
                raise DataError(
                    f"{path}: not an IDX file of uint8 values with {rank} dimensions "
                    f"(it begins with {header[:4].hex(' ') or 'nothing'}); {REMEDY}"
                )
            shape = tuple(int(size) for size in np.frombuffer(header, ">u4", offset=4))
            size = math.prod(shape)
            if size > MAX_BYTES:
                raise DataError(f"{path}: its header promises {size} bytes, too many; {REMEDY}")
            yield file, shape
    except FileNotFoundError:
        raise DataError(f"{path}: not found; run `dvc repro --force download`") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: not a whole gzip file ({one_line(error)}); {REMEDY}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {REMEDY}") from None


def read_shape(path: Path, rank: int) -> tuple[int, ...]:
    """Return the dimensions that the header of a gzip-compressed IDX file promises.

    Raises:
        DataError: the file is missing or torn, or no IDX file of uint8 values with `rank`
            dimensions.
    """
    with _open_idx(path, rank) as (_, shape):
        return shape


def iterate_idx(path: Path, rank: int, rows: int) -> Iterator[np.ndarray]:
    """Read a gzip-compressed IDX file of uint8 values with `rank` dimensions, `rows` at a time.

    Never reads more than the header promises, nor more than 8 GiB. Which values they are is not
    checked here: the hashes of `data/raw`, DVC's, tell when one has changed.

    Raises:
        DataError: the file is missing, torn, or holds something else.
    """
    with _open_idx(path, rank) as (file, (count, *shape)):
        size = math.prod(shape)
        for start in range(0, count, rows):
            number = min(rows, count - start)
            content = file.read(number * size)
            if len(content) != number * size:
                raise _of_another_size(path, count * size, f"{start * size + len(content)} bytes")
            yield np.frombuffer(content, np.uint8).reshape(number, *shape)
        if file.read(1):
            raise _of_another_size(path, count * size, "more")


def read_idx(path: Path, rank: int) -> np.ndarray:
    """Read a whole file; see `iterate_idx`."""
    shape = read_shape(path, rank)
    parts = list(iterate_idx(path, rank, rows=max(1, shape[0])))
    return parts[0] if parts else np.empty(shape, np.uint8)


def _of_another_size(path: Path, promised: int, found: str) -> DataError:
    return DataError(f"{path}: its header promises {promised} bytes, it holds {found}; {REMEDY}")
