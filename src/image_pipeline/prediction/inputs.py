"""The images that a command line names: files, folders, glob patterns, standard input."""

import glob
import os
import stat
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from image_pipeline.common.errors import DataError, one_line
from image_pipeline.downloading.clutter import is_clutter
from image_pipeline.reading.formats import SUFFIXES
from image_pipeline.reading.pixels import error_cause

STANDARD_INPUT = "-"
MAX_BYTES = 1 << 28  # of an image file
MAX_NAME_LENGTH = 1 << 12  # characters of a file name in a line of text
MAX_SUFFIXES = 8  # in the line about files left out
MAX_SUFFIX_LENGTH = 12  # characters


@dataclass(frozen=True)
class ImageInput:
    """An image to predict.

    Attributes:
        name: path of the file, as the user wrote it or as it was found.
        content: bytes of the file; None to read them from the path.
        error: why there is no such image; empty if there is one.
    """

    name: str
    content: bytes | None = None
    error: str = ""

    @property
    def display_name(self) -> str:
        """The name on one line, safe to print to a terminal."""
        return one_line(self.name, MAX_NAME_LENGTH)

    def read(self) -> bytes:
        """Return the file's content.

        Raises:
            DataError: it cannot be read, or is larger than `MAX_BYTES`.
        """
        if self.error:
            raise DataError(self.error)
        if self.content is not None:
            return self.content
        try:
            with open(self.name, "rb", buffering=0) as file:  # noqa: PTH123 - half of the time
                status = os.fstat(file.fileno())
                if status.st_size > MAX_BYTES:
                    raise DataError(TOO_LARGE)
                if stat.S_ISREG(status.st_mode):
                    return file.readall()
                return _join_limited(iter(lambda: file.read(1 << 20), b""))
        except OSError as error:
            raise DataError(error.strerror or error_cause(error)) from None

    def size(self) -> int:
        """Return the file's size in bytes, 0 if it is unknown."""
        if self.content is not None:
            return len(self.content)
        try:
            return os.stat(self.name).st_size  # noqa: PTH116 - half of the time
        except (OSError, ValueError):
            return 0


TOO_LARGE = f"larger than {MAX_BYTES >> 20} MiB, the limit for an image file"
NO_IMAGES = f"no images in this folder; their names end in {' '.join(SUFFIXES)}"


def find_inputs(names: Iterable[str], skipped: Counter[str] | None = None) -> Iterator[ImageInput]:
    """Yield the images that the names stand for, in order; a name without any yields an error.

    Args:
        names: each a file; a folder, which stands for all image files in it and its subfolders,
            sorted; a pattern with `*`, `?`, `[...]` or `**`; or `-`, an image on standard input.
        skipped: counts, by suffix, the files in folders whose names are not those of images.
    """
    skipped = Counter() if skipped is None else skipped
    for name in names:
        if name == STANDARD_INPUT:
            yield _read_standard_input()
        elif os.path.lexists(name):
            yield from _expand_path(name, skipped)
        elif glob.has_magic(name):
            paths = sorted(glob.iglob(name, recursive=True))  # noqa: PTH207 - Path.glob wants a root
            if not paths:
                yield ImageInput(name, error="no file matches this pattern")
            for path in paths:
                yield from _expand_path(path, skipped)
        else:
            yield ImageInput(name, error="no such file or folder")


def describe_skipped(skipped: Counter[str]) -> str:
    """Return in a line how many files were left out, and their suffixes by frequency."""
    ranked = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    shown = [
        f"{one_line(suffix, MAX_SUFFIX_LENGTH) or 'no suffix'} ({count})"
        for suffix, count in ranked[:MAX_SUFFIXES]
    ]
    if len(ranked) > MAX_SUFFIXES:
        shown.append(f"and {len(ranked) - MAX_SUFFIXES} more suffixes")
    total = sum(skipped.values())
    what = "files left out, whose names are not those of images"
    if total == 1:
        what = "file left out, whose name is not that of an image"
    return f"{total} {what}: {', '.join(shown)}; a file that you name is read whatever its suffix"


def read_file_list(path: str) -> Iterator[str]:
    """Yield file names from a text file or standard input (`-`), one per line, as they arrive.

    Raises:
        DataError: the file cannot be read.
    """
    if path == STANDARD_INPUT:
        yield from _nonempty_lines(sys.stdin.buffer)
        return
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            yield from _nonempty_lines(file)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _nonempty_lines(file: Iterable[bytes]) -> Iterator[str]:
    names = (os.fsdecode(line.rstrip(b"\r\n")) for line in file)
    return (name for name in names if name)


def _read_standard_input() -> ImageInput:
    file = sys.stdin.buffer
    try:
        content = _join_limited(iter(lambda: file.read(1 << 20), b""))
    except DataError as error:
        return ImageInput(STANDARD_INPUT, error=str(error))
    if not content:
        return ImageInput(STANDARD_INPUT, error="standard input is empty")
    return ImageInput(STANDARD_INPUT, content)


def _join_limited(chunks: Iterable[bytes]) -> bytes:
    content = bytearray()
    for chunk in chunks:
        content += chunk
        if len(content) > MAX_BYTES:
            raise DataError(TOO_LARGE)
    return bytes(content)


def _expand_path(path: str, skipped: Counter[str]) -> Iterator[ImageInput]:
    if not os.path.isdir(path):  # noqa: PTH112
        yield ImageInput(path)
        return
    empty = True
    for image_input in _walk_folder(path, skipped):
        empty = False
        yield image_input
    if empty:
        yield ImageInput(path, error=NO_IMAGES)


def _walk_folder(path: str, skipped: Counter[str]) -> Iterator[ImageInput]:
    """Yield the image files below a folder; memory holds the names of one folder at a time."""
    unreadable: list[OSError] = []
    for folder, folders, files in os.walk(path, onerror=unreadable.append):
        folders[:] = sorted(name for name in folders if not is_clutter(name))
        for file in sorted(files):
            if is_clutter(file):
                continue
            if file.lower().endswith(SUFFIXES):
                yield ImageInput(os.path.join(folder, file))  # noqa: PTH118
            else:
                skipped[os.path.splitext(file)[1].lower()] += 1  # noqa: PTH122
    for error in unreadable:
        yield ImageInput(str(error.filename), error=error.strerror or error_cause(error))
