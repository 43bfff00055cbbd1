"""The IDX format of the MNIST family, gzip-compressed, in a file of its own or within a zip file.

Four bytes (0, 0, type, rank), one big-endian uint32 per dimension, the values, big-endian too.
Type 8 is uint8 and type 12 int32, the only ones these data sets use. Source: the description on the
original MNIST page.
"""

import gzip
import math
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from image_pipeline.common.errors import DataError, one_line
from image_pipeline.datasets.base import REMEDY, reading

UINT8, INT32 = np.dtype(np.uint8), np.dtype(">i4")
TYPES = {UINT8: 8, INT32: 12}
MAX_BYTES = 1 << 33


@dataclass(frozen=True)
class ZipMember:
    """A file within a zip file, which is read where it is: nothing is extracted."""

    archive: Path
    name: str

    def __str__(self) -> str:
        return f"{self.archive}: {self.name}"


@contextmanager
def _open_packed(source: Path | ZipMember) -> Iterator[IO[bytes]]:
    """Open a gzip file's own bytes; what goes wrong in the block is wrong with the file."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            yield file
        return
    try:
        with zipfile.ZipFile(source.archive) as archive:
            member = archive.getinfo(source.name)
            # What is compressed already gets no smaller: a member like that is a bomb.
            if member.file_size > source.archive.stat().st_size:
                raise DataError(
                    f"{source}: promises {member.file_size} bytes, more than the whole zip file; "
                    f"{REMEDY}"
                )
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DataError(f"{source}: neither stored nor deflated in its zip file; {REMEDY}")
            with archive.open(member) as file:
                yield file
    except KeyError:
        raise DataError(f"{source}: not in this zip file; {REMEDY}") from None
    except (zipfile.BadZipFile, RuntimeError, ValueError, struct.error) as error:
        cause = one_line(error)
        raise DataError(f"{source.archive}: not a whole zip file ({cause}); {REMEDY}") from None


@contextmanager
def _open_idx(
    source: Path | ZipMember, rank: int, dtype: np.dtype
) -> Iterator[tuple[gzip.GzipFile, tuple[int, ...]]]:
    """Open a file behind its header; what goes wrong in the block is wrong with the file."""
    with (
        reading(source, "gzip"),
        _open_packed(source) as packed,
        gzip.GzipFile(fileobj=packed) as file,
    ):
        header = file.read(4 + 4 * rank)
        if len(header) < 4 + 4 * rank or header[:4] != bytes((0, 0, TYPES[dtype], rank)):
            raise DataError(
                f"{source}: not an IDX file of {dtype.name} values with {rank} dimensions "
                f"(it begins with {header[:4].hex(' ') or 'nothing'}); {REMEDY}"
            )
        shape = tuple(int(size) for size in np.frombuffer(header, ">u4", offset=4))
        size = math.prod(shape) * dtype.itemsize
        if size > MAX_BYTES:
            raise DataError(f"{source}: its header promises {size} bytes, too many; {REMEDY}")
        yield file, shape


def read_shape(source: Path | ZipMember, rank: int, dtype: np.dtype = UINT8) -> tuple[int, ...]:
    """Return the dimensions that the header of a gzip-compressed IDX file promises.

    Raises:
        DataError: the file is missing or torn, or no IDX file of `dtype` with `rank` dimensions.
    """
    with _open_idx(source, rank, dtype) as (_, shape):
        return shape


def iterate_idx(
    source: Path | ZipMember, rank: int, rows: int, dtype: np.dtype = UINT8
) -> Iterator[np.ndarray]:
    """Read a gzip-compressed IDX file of `dtype` with `rank` dimensions, `rows` at a time.

    Never reads more than the header promises, nor more than 8 GiB. Which values they are is not
    checked here: the hashes of `data/raw`, DVC's, tell when one has changed.

    Args:
        source: the file.
        rank: how many dimensions it must have.
        rows: how many of the first dimension to read at once.
        dtype: `UINT8` or `INT32`.

    Raises:
        DataError: the file is missing, torn, or holds something else.
    """
    with _open_idx(source, rank, dtype) as (file, (count, *shape)):
        size = math.prod(shape) * dtype.itemsize
        for start in range(0, count, rows):
            number = min(rows, count - start)
            content = file.read(number * size)
            if len(content) != number * size:
                found = f"{start * size + len(content)} bytes"
                raise _of_another_size(source, count * size, found)
            yield np.frombuffer(content, dtype).reshape(number, *shape)
        if file.read(1):
            raise _of_another_size(source, count * size, "more")


def _of_another_size(source: Path | ZipMember, promised: int, found: str) -> DataError:
    return DataError(f"{source}: its header promises {promised} bytes, it holds {found}; {REMEDY}")
