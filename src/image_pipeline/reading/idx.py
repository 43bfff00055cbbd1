"""The IDX format of the MNIST family, gzip-compressed, as a file or as a member of a zip file.

Four bytes (0, 0, type, rank), one big-endian uint32 per dimension, then the values, big-endian too.
Type 8 is uint8 and type 12 int32; these data sets use no other. Source: the description on the
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
from image_pipeline.reading.raw_files import REMEDY, translate_read_errors

UINT8, INT32 = np.dtype(np.uint8), np.dtype(">i4")
TYPES = {UINT8: 8, INT32: 12}
MAX_BYTES = 1 << 33


@dataclass(frozen=True)
class ZipMember:
    """A file in a zip file, read in place: nothing is extracted."""

    archive: Path
    name: str

    def __str__(self) -> str:
        return f"{self.archive}: {self.name}"

    @contextmanager
    def open(self, _mode: str) -> Iterator[IO[bytes]]:
        """Open the file; zip errors in the block become DataError."""
        try:
            with zipfile.ZipFile(self.archive) as archive:
                member = archive.getinfo(self.name)
                # Compressed data does not shrink again: such a member is a decompression bomb.
                if member.file_size > self.archive.stat().st_size:
                    claim = f"claims {member.file_size} bytes, more than the whole zip file"
                    raise DataError(f"{self}: {claim}; {REMEDY}")
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise DataError(
                        f"{self}: neither stored nor deflated in its zip file; {REMEDY}"
                    )
                with archive.open(member) as file:
                    yield file
        except KeyError:
            raise DataError(f"{self}: not in this zip file; {REMEDY}") from None
        except (zipfile.BadZipFile, RuntimeError, ValueError, struct.error) as error:
            cause = one_line(error)
            raise DataError(f"{self.archive}: not a valid zip file ({cause}); {REMEDY}") from None


@contextmanager
def _open_idx(
    source: Path | ZipMember, rank: int, dtype: np.dtype
) -> Iterator[tuple[gzip.GzipFile, tuple[int, ...]]]:
    """Open a file after its header; errors in the block become DataError."""
    with (
        translate_read_errors(source, "gzip"),
        source.open("rb") as compressed,
        gzip.GzipFile(fileobj=compressed) as file,
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
            raise DataError(f"{source}: its header declares {size} bytes, too many; {REMEDY}")
        yield file, shape


def read_shape(source: Path | ZipMember, rank: int, dtype: np.dtype = UINT8) -> tuple[int, ...]:
    """Return the dimensions in the header of a gzip-compressed IDX file.

    Raises:
        DataError: the file is missing or damaged, or no IDX file of this `rank` and `dtype`.
    """
    with _open_idx(source, rank, dtype) as (_, shape):
        return shape


def iterate_idx(
    source: Path | ZipMember, rank: int, rows: int, dtype: np.dtype = UINT8
) -> Iterator[np.ndarray]:
    """Read a gzip-compressed IDX file in chunks.

    Never reads more than the header declares, nor more than 8 GiB. The values are not verified
    here: DVC's hashes of `data/raw` tell when one has changed.

    Args:
        source: the file.
        rank: how many dimensions it must have.
        rows: how many of the first dimension make a chunk.
        dtype: `UINT8` or `INT32`.

    Raises:
        DataError: the file is missing, damaged or something else.
    """
    with _open_idx(source, rank, dtype) as (file, (count, *shape)):
        size = math.prod(shape) * dtype.itemsize
        for start in range(0, count, rows):
            number = min(rows, count - start)
            content = file.read(number * size)
            if len(content) != number * size:
                found = f"{start * size + len(content)} bytes"
                raise _wrong_size(source, count * size, found)
            yield np.frombuffer(content, dtype).reshape(number, *shape)
        if file.read(1):
            raise _wrong_size(source, count * size, "more")


def _wrong_size(source: Path | ZipMember, declared: int, found: str) -> DataError:
    return DataError(f"{source}: its header declares {declared} bytes, it holds {found}; {REMEDY}")
