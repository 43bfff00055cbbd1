"""Atomic writes: files that appear whole or not at all."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

PARTIAL_SUFFIX = ".partial"

_unfinished: set[Path] = set()  # partial files of this process, for `discard_partials`
_held: dict[Path, Path] | None = None  # path -> its whole partial file, in a `together` block


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file that takes the place of `path` only when the block ends without an error.

    The bytes go to `<path>.partial` (ignored by Git), are flushed to the disk, and are renamed over
    `path` in one step: a reader, or a run after a power cut, sees the old file or the new one and
    nothing between. A partial file that a killed run left is overwritten. Two processes must not
    write the same path at once: `image_pipeline.common.stage` prevents that.

    Raises:
        OSError: the folder cannot be written to, or the disk is full; `path` is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    _unfinished.add(partial)
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if _held is None:
            _publish({path: partial})
        else:
            _held[path] = partial
    except BaseException as error:
        _discard(partial)
        if isinstance(error, OSError) and error.errno and not error.filename:
            error.filename = str(path)  # which a failed write does not name
        raise


@contextmanager
def atomic_group() -> Iterator[None]:
    """Publish the files written in this block only when all of them are complete on the disk.

    So if the disk is full at the third of four files, all four stay as they were.
    """
    global _held
    if _held is not None:
        raise RuntimeError("atomic_group() does not nest")
    _held = {}
    try:
        yield
        _publish(_held)
    except BaseException:
        for partial in _held.values():
            _discard(partial)
        raise
    finally:
        _held = None


def discard_partials() -> None:
    """Remove the files that this process has not finished writing; called as it is terminated."""
    for partial in tuple(_unfinished):
        _discard(partial)


def _publish(partials: Mapping[Path, Path]) -> None:
    for path, partial in partials.items():
        partial.replace(path)
        _unfinished.discard(partial)
    if os.name != "posix":  # Windows cannot open a folder
        return
    for parent in sorted({path.parent for path in partials}):  # make the renames durable
        folder = os.open(parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _discard(partial: Path) -> None:
    with suppress(OSError):  # the error that led here is the one to report
        partial.unlink(missing_ok=True)
    _unfinished.discard(partial)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all."""
    with atomic_write(path) as file:
        file.write(content)
