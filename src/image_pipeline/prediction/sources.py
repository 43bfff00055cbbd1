"""The images that a command line names: files, folders, patterns, standard input."""

import glob
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from image_pipeline.common.errors import DataError
from image_pipeline.datasets.folder import SUFFIXES
from image_pipeline.datasets.image_files.pixels import cause

STANDARD_INPUT = "-"
MAX_BYTES = 1 << 28  # of an image file


@dataclass(frozen=True)
class Source:
    """An image that is asked about.

    Attributes:
        name: the file's path, as the user wrote it or as it was found.
        content: of the file, where it is not to be read by its name.
        error: why there is none.
    """

    name: str
    content: bytes | None = None
    error: str = ""

    def read(self) -> bytes:
        """Return the file's content.

        Raises:
            SourceError: it cannot be read, or there is too much of it.
        """
        if self.error:
            raise SourceError(self.error)
        if self.content is not None:
            return self.content
        try:
            with open(self.name, "rb", buffering=0) as file:  # noqa: PTH123 - half of the time
                about = os.fstat(file.fileno())
                if about.st_size > MAX_BYTES:
                    raise SourceError(TOO_LARGE)
                if stat.S_ISREG(about.st_mode):
                    return file.readall()
                return _bounded(iter(lambda: file.read(1 << 20), b""))
        except OSError as error:
            raise SourceError(error.strerror or cause(error)) from None

    def bytes(self) -> int:
        """Return the file's size, as far as it is known."""
        if self.content is not None:
            return len(self.content)
        try:
            return os.stat(self.name).st_size  # noqa: PTH116 - half of the time
        except (OSError, ValueError):
            return 0


class SourceError(Exception):
    """An image file that cannot be read."""


TOO_LARGE = f"larger than {MAX_BYTES >> 20} MiB; this is no image to predict"
NO_IMAGES = f"no images in this folder, whose names end in {' '.join(SUFFIXES)}"


def find_sources(names: Iterable[str]) -> Iterator[Source]:
    """Find the images that are named, in order, and what is named in vain.

    Args:
        names: each a file; a folder, of which all image files are taken, sorted, and those of its
            folders; a pattern with `*`, `?`, `[...]` or `**`; or `-`, an image on standard input.
    """
    for name in names:
        if name == STANDARD_INPUT:
            yield _standard_input()
        elif os.path.lexists(name):
            yield from _of_path(name)
        elif glob.has_magic(name):
            found = sorted(glob.iglob(name, recursive=True))  # noqa: PTH207 - Path.glob wants a root
            if not found:
                yield Source(name, error="no file matches this pattern")
            for path in found:
                yield from _of_path(path)
        else:
            yield Source(name, error="no such file or folder")


def read_list(path: str) -> Iterator[str]:
    """Yield the names in a file, or on standard input where it is `-`, one a line, as they come.

    Raises:
        DataError: the file cannot be read.
    """
    if path == STANDARD_INPUT:
        yield from _lines(sys.stdin.buffer)
        return
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            yield from _lines(file)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _lines(file: Iterable[bytes]) -> Iterator[str]:
    names = (os.fsdecode(line.rstrip(b"\r\n")) for line in file)
    return (name for name in names if name)


def _standard_input() -> Source:
    file = sys.stdin.buffer
    try:
        content = _bounded(iter(lambda: file.read(1 << 20), b""))
    except SourceError as error:
        return Source(STANDARD_INPUT, error=str(error))
    if not content:
        return Source(STANDARD_INPUT, error="nothing came from standard input")
    return Source(STANDARD_INPUT, content)


def _bounded(parts: Iterable[bytes]) -> bytes:
    content = bytearray()
    for part in parts:
        content += part
        if len(content) > MAX_BYTES:
            raise SourceError(TOO_LARGE)
    return bytes(content)


def _of_path(path: str) -> Iterator[Source]:
    if not os.path.isdir(path):  # noqa: PTH112
        yield Source(path)
        return
    empty = True
    for source in _of_folder(path):
        empty = False
        yield source
    if empty:
        yield Source(path, error=NO_IMAGES)


def _of_folder(path: str) -> Iterator[Source]:
    """Find the image files below a folder; the memory is that of one folder's names."""
    unreadable: list[OSError] = []
    for folder, folders, files in os.walk(path, onerror=unreadable.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in sorted(files):
            if file.lower().endswith(SUFFIXES) and not file.startswith("."):
                yield Source(os.path.join(folder, file))  # noqa: PTH118
    for error in unreadable:
        yield Source(str(error.filename), error=error.strerror or cause(error))
