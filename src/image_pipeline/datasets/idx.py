"""The IDX format of the MNIST family, gzip-compressed.

Four bytes (0, 0, type, rank), one big-endian uint32 per dimension, the values. Type 8 is uint8,
the only one these data sets use. Source: the description on the original MNIST page.
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from image_pipeline.errors import DataError, one_line

UINT8 = 8
MAX_BYTES = 1 << 31
REMEDY = "delete it and run `dvc repro --force download`"


def read_idx(path: Path, rank: int) -> np.ndarray:
    """Read a gzip-compressed IDX file of uint8 values with `rank` dimensions.

    Never reads more than the header promises, nor more than 2 GiB. Which values they are is not
    checked here: the hashes of `data/raw`, DVC's, tell when one has changed.

    Raises:
        DataError: the file is missing, torn, or holds something else.
    """
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
            content = file.read(size + 1)
    except FileNotFoundError:
        raise DataError(f"{path}: not found; run `dvc repro --force download`") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: not a whole gzip file ({one_line(error)}); {REMEDY}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {REMEDY}") from None
    if len(content) != size:
        found = f"{len(content)} bytes" if len(content) < size else "more"
        raise DataError(f"{path}: its header promises {size} bytes, it holds {found}; {REMEDY}")
    return np.frombuffer(content, np.uint8).reshape(shape)
