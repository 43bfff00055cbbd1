"""Files that appear whole or not at all, with the same bytes on every machine."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import pandas as pd

PARTIAL_SUFFIX = ".partial"
DECIMALS = 6


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file that takes the place of `path` only when the block ends without an error.

    The bytes go to `<path>.partial` (ignored by Git and DVC), are flushed to the disk, and are
    renamed over `path` in one step: a reader, or a run after a power cut, sees the old file or the
    new one and nothing between.

    Raises:
        OSError: the folder cannot be written to, or the disk is full; `path` is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # make the rename itself durable; Windows cannot open a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all."""
    with replacing(path) as file:
        file.write(content)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write `values` with sorted keys and floats rounded to `DECIMALS` digits."""
    text = json.dumps(_rounded(values), indent=2, sort_keys=True, allow_nan=False)
    write_bytes(path, f"{text}\n".encode())


def write_csv(path: Path, table: "pd.DataFrame") -> None:
    """Write `table` without its index, floats with `DECIMALS` digits, lines ended by a newline."""
    text = table.to_csv(index=False, float_format=f"%.{DECIMALS}f", lineterminator="\n")
    write_bytes(path, text.encode())


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DECIMALS)
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return value
