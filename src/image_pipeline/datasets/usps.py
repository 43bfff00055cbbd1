"""USPS: digits from envelopes, 16 x 16 pixels, grey, as bzip2-compressed text.

A line is an image: its label, 1 to 10, then `index:value` of each of its 256 pixels, row by row,
with values from -1 to 1 (LIBSVM's format).

Source: Hull, "A database for handwritten text recognition research" (1994), in the version of the
LIBSVM data sets, through the class of torchvision that knows its addresses and MD5s.
"""

import bz2
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from image_pipeline.common.errors import DataError, one_line
from image_pipeline.datasets.base import RawSplit, images_per_chunk
from image_pipeline.datasets.download import RemoteFile, fetch_files
from image_pipeline.datasets.idx import REMEDY

SHAPE = (16, 16)  # of an image
PIXELS = SHAPE[0] * SHAPE[1]
INDICES = [str(index) for index in range(1, PIXELS + 1)]
LABELS = {str(label): label - 1 for label in range(1, 11)}
MAX_LINE = 1 << 14  # bytes; a line has some 3,000
MAX_LINES = 1 << 20
PARTS = {"train": "usps.bz2", "test": "usps.t.bz2"}


class Usps:
    """The two files, as torchvision reads them."""

    class_names = tuple(str(digit) for digit in range(10))

    def fetch(self, folder: Path, mirror: str | None) -> None:
        """See `Dataset.fetch`."""
        from torchvision.datasets import USPS

        published = [USPS.split_list[part] for part in PARTS]
        files = [RemoteFile(name, md5) for _, name, md5 in published]
        addresses = dict.fromkeys(url.rsplit("/", 1)[0] for url, _, _ in published)
        fetch_files(files, list(addresses), folder, mirror)

    def read(self, folder: Path) -> tuple[RawSplit, RawSplit]:
        """See `Dataset.read`."""
        train, test = (_read_split(folder / name) for name in PARTS.values())
        return train, test


def _read_split(path: Path) -> RawSplit:
    labels = np.fromiter((_label(path, *line) for line in _lines(path)), np.uint8)
    if not len(labels):
        raise DataError(f"{path}: it has no images; {REMEDY}")

    def chunks() -> Iterator[np.ndarray]:
        most = images_per_chunk(SHAPE)
        images: list[np.ndarray] = []
        for number, words in _lines(path):
            images.append(_image(path, number, words))
            if len(images) == most:
                yield np.stack(images)
                images = []
        if images:
            yield np.stack(images)

    return RawSplit((1, *SHAPE), labels, chunks)


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield each line's number, from 1, and its words."""
    try:
        with bz2.open(path) as file:
            number = 0
            while line := file.readline(MAX_LINE + 1):
                number += 1
                if len(line) > MAX_LINE or number > MAX_LINES:
                    what = f"{MAX_LINE} bytes" if len(line) > MAX_LINE else f"{MAX_LINES} lines"
                    raise _bad_line(path, number, f"more than {what}, which is no such file")
                yield number, line.decode("ascii", "replace").split()
    except FileNotFoundError:
        raise DataError(f"{path}: not found; run `dvc repro --force download`") from None
    except EOFError:
        raise DataError(f"{path}: not a whole bzip2 file (it ends too soon); {REMEDY}") from None
    except OSError as error:
        if error.strerror is None:  # of bz2's own making
            cause = one_line(error)
            raise DataError(f"{path}: not a whole bzip2 file ({cause}); {REMEDY}") from None
        raise DataError(f"{path}: cannot be read ({error.strerror}); {REMEDY}") from None


def _label(path: Path, number: int, words: list[str]) -> int:
    word = words[0] if words else ""
    if word not in LABELS:
        raise _bad_line(path, number, f"the label {one_line(word, 40)!r} is not one of 1 to 10")
    return LABELS[word]


def _image(path: Path, number: int, words: list[str]) -> np.ndarray:
    """Return uint8 `[1, 16, 16]`, by torchvision's formula: in float32, rounded down."""
    pairs = [word.partition(":") for word in words[1:]]
    if [index for index, _, _ in pairs] != INDICES:
        problem = f"its {len(pairs)} pixels are not {PIXELS}, numbered from 1 in order"
        raise _bad_line(path, number, problem)
    try:
        with np.errstate(over="ignore"):  # what is too large for float32 is refused below
            values = np.array([value for _, _, value in pairs], np.float32)
    except ValueError as error:
        raise _bad_line(path, number, f"a pixel is no number ({one_line(error, 80)})") from None
    within = np.abs(values) <= 1  # False of a NaN, too
    if not within.all():
        index, _, value = pairs[int(within.argmin())]
        problem = f"the pixel {index} is {one_line(value, 40)}, not from -1 to 1"
        raise _bad_line(path, number, problem)
    return ((values + 1) / 2 * 255).astype(np.uint8).reshape(1, *SHAPE)


def _bad_line(path: Path, number: int, problem: str) -> DataError:
    return DataError(f"{path}, line {number}: {problem}; {REMEDY}")
