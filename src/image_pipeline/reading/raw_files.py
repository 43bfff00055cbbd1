"""What the readers of original files share: sizes of chunks, errors."""

import math
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from image_pipeline.common.errors import DataError, one_line

CHUNK_BYTES = 1 << 20
REMEDY = "delete it and run `dvc repro --force download`"


def images_per_chunk(shape: tuple[int, ...]) -> int:
    """Return how many images of `shape`, uint8, fill a chunk of about `CHUNK_BYTES`."""
    return max(1, CHUNK_BYTES // math.prod(shape))


@contextmanager
def translate_read_errors(source: object, kind: str) -> Iterator[None]:
    """Turn what a library raises in the block, on a file that `fetch` downloaded, into DataError.

    Args:
        source: the file's path, or another name for it.
        kind: the expected format, such as gzip.

    Raises:
        DataError: the file is missing, damaged or something else.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{error.filename}: not found; run `dvc repro --force download`") from None
    except (OSError, EOFError, ValueError, tarfile.TarError, zlib.error) as error:
        if isinstance(error, OSError) and error.strerror:  # from the operating system
            raise DataError(f"{source}: cannot be read ({error.strerror}); {REMEDY}") from None
        cause = one_line(error) or "unexpected end of file"
        raise DataError(f"{source}: not a valid {kind} file ({cause}); {REMEDY}") from None
