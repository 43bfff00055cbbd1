"""Your own images: a folder, or an archive of one, with a folder for each class.

Over the classes there may be `train/` and `test/`; what is in `val/` or `validation/` beside them
counts as training images, because tensorize draws its validation split itself. Class names are the
folders', sorted; folders inside a class's folder belong to the class.
"""

import errno
import hashlib
import os
import re
import shutil
import sys
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import numpy as np
from tqdm import tqdm

from image_pipeline.common.errors import DataError, ParamsError, one_line
from image_pipeline.datasets.base import RawSplit, images_per_chunk, reading
from image_pipeline.datasets.download import RemoteFile, fetch_files
from image_pipeline.datasets.image_files.archives import most_packed_bytes, pack, read_tar
from image_pipeline.datasets.splitting import draw
from image_pipeline.downloading.params import DownloadFolderParams
from image_pipeline.tensorizing.params import TensorizeFolderParams

if TYPE_CHECKING:
    from image_pipeline.datasets.image_files.pixels import PixelSettings

FILE = "images.tar"
NO_IMAGES = Path("images/README.md")  # the path while nobody has set one
MAX_NAME_LENGTH = 100  # characters of a fetched archive's name that are kept
FETCHED = "fetched"  # the folder for an archive that was fetched, until its images are in FILE
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
FIRST = 10  # files that an error names
TRAIN = frozenset({"train", "training", "val", "valid", "validation"})
TEST = frozenset({"test", "testing"})
TEST_DRAW = 1  # beside the seed, so that the test split is drawn apart from the validation split
NO_CLASS = "it is in no class's folder"
NO_IMAGE = f"its name ends in none of {' '.join(SUFFIXES)}"


class Folder:
    """Images in class folders, packed into one tar file by `fetch`, decoded from it by `read`.

    Args:
        source: where they come from.
        reading: what they become.
        seed: of the test split, where there is no `test/`.
        workers: how many processes decode; as many as processors, where it is None.
    """

    def __init__(
        self,
        source: DownloadFolderParams,
        reading: TensorizeFolderParams,
        seed: int,
        workers: int | None = None,
    ) -> None:
        self._source = source
        self._reading = reading
        self._seed = seed
        self._workers = workers
        self.class_names: tuple[str, ...] = ()

    def fetch(self, folder: Path, mirror: str | None) -> None:
        """See `Dataset.fetch`.

        Raises:
            DataError: the archive, or a file in it, is refused.
            ParamsError: there is a url, but no sha256.
        """
        if not self._source.url:
            path = Path(self._source.path)
            _check_path(path)
            if self._source.sha256:
                _check_digest(path, self._source.sha256)
            pack(path, folder / FILE)
            return
        if not self._source.sha256:
            raise ParamsError(
                "params.yaml: download.folder.sha256: missing; an archive from a url needs it "
                "(`sha256sum` prints it)"
            )
        name = PurePosixPath(unquote(urlsplit(self._source.url).path)).name
        name = re.sub(r"[^A-Za-z0-9._-]", "_", name)[-MAX_NAME_LENGTH:].lstrip(".") or "archive"
        archive = RemoteFile(
            name,
            sha256=self._source.sha256,
            url=self._source.url,
            most_bytes=most_packed_bytes(),
        )
        fetch_files([archive], [], folder / FETCHED, mirror)
        pack(folder / FETCHED / name, folder / FILE)
        shutil.rmtree(folder / FETCHED)

    def read(self, folder: Path) -> tuple[RawSplit, RawSplit]:
        """See `Dataset.read`. Decodes every image, into a nameless temporary file beside `folder`.

        Raises:
            DataError: the folders are not laid out as they should be; or files that are no readable
                images, unless they may be skipped.
        """
        # Here, because other data sets do without Pillow, which takes its time to import.
        from image_pipeline.datasets.image_files.decoding import decode_all
        from image_pipeline.datasets.image_files.pixels import PixelSettings

        path, reading = folder / FILE, self._reading
        settings = PixelSettings(reading.channels, reading.image_size, reading.fit)
        names, places, folders = _list_files(path)
        layout = _read_layout(folders, self._source.url or self._source.path)
        meant = [layout.folders[name.rpartition("/")[0]] for name in names]
        labels = np.array([label for label, _ in meant], np.int32)
        in_test = np.array([test for _, test in meant], bool)
        images = np.array([name.lower().endswith(SUFFIXES) for name in names], bool)
        tried = np.flatnonzero((labels >= 0) & images)

        with path.open("rb") as tar, tempfile.TemporaryFile(dir=folder.parent) as decoded:
            room = max(1, len(tried) * settings.bytes_per_image)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(decoded.fileno(), 0, room)  # a full disk is found out now
            failures = decode_all(
                tar.fileno(),
                places[tried, 0],
                places[tried, 1],
                settings,
                decoded,
                self._workers,
            )
            pixels: np.ndarray = np.memmap(
                decoded, np.uint8, "r", shape=(len(tried), *settings.shape)
            )

        failed = np.zeros(len(tried), bool)
        failed[list(failures)] = True
        useless = np.ones(len(labels), bool)
        useless[tried[~failed]] = False
        if useless.any():
            causes = {int(tried[number]): why for number, why in failures.items()}
            told = self._tell_useless(names, labels, useless, causes)
            if reading.unreadable == "error":
                raise DataError(
                    f"{told}. Take them out, or set tensorize.folder.unreadable to skip"
                )
            tqdm.write(f"WARNING: {told}; they are left out", file=sys.stderr)
        positions = np.flatnonzero(~failed)
        labels, tests = labels[tried][positions], in_test[tried][positions]
        self.class_names = layout.class_names
        if not layout.has_test:
            _check_counts(labels, layout.class_names, "files")
            tests = draw(
                labels,
                layout.class_names,
                reading.test_fraction,
                (self._seed, TEST_DRAW),
                "tensorize.folder.test_fraction",
            )
        splits = []
        for chosen, files in ((~tests, useless & ~in_test), (tests, useless & in_test)):
            _check_counts(labels[chosen], layout.class_names, "training or test files")
            splits.append(
                _split(pixels, positions[chosen], labels[chosen], settings, int(files.sum()))
            )
        return splits[0], splits[1]

    def _tell_useless(
        self, names: list[str], labels: np.ndarray, useless: np.ndarray, causes: dict[int, str]
    ) -> str:
        """Name the first files that are of no use, with their causes, and count all."""
        first = np.flatnonzero(useless)[:FIRST].tolist()
        told = []
        for number in first:
            why = causes.get(number) or (NO_CLASS if labels[number] < 0 else NO_IMAGE)
            told.append(f"{one_line(names[number], 100)} ({one_line(why, 160)})")
        count = int(useless.sum())
        if count > len(first):
            told.append(f"and {count - len(first)} more")
        where = self._source.url or self._source.path
        return f"{count} of {len(labels)} files in {where} cannot be used: {'; '.join(told)}"


def _list_files(path: Path) -> tuple[list[str], np.ndarray, dict[str, None]]:
    """Read the headers of the tar file that `fetch` wrote.

    Returns:
        Of all files their names, and offset and size of their content, int64 `[N, 2]`; the folders
        that hold files, and those that hold nothing.
    """
    names: list[str] = []
    places: array[int] = array("q")
    folders: dict[str, None] = {}
    with reading(path, "tar"), path.open("rb") as tar:
        for entry in read_tar(tar):
            folders[entry.name if entry.isdir() else entry.name.rpartition("/")[0]] = None
            if entry.isreg():
                names.append(entry.name)
                places.extend((entry.offset_data, entry.size))
    return names, np.frombuffer(places, np.int64).reshape(-1, 2), folders


@dataclass
class _Layout:
    """What the folders mean.

    Attributes:
        class_names: sorted.
        folders: of each its label, -1 where it is no class's, and whether it is of the test split.
        has_test: whether there is a test split.
    """

    class_names: tuple[str, ...]
    folders: dict[str, tuple[int, bool]]
    has_test: bool


def _read_layout(folders: Iterable[str], where: str) -> _Layout:
    """Tell splits and classes from the folders' names.

    Raises:
        DataError: they are not as they should be; says how.
    """
    parts = {folder: folder.split("/") if folder else [] for folder in folders}
    tops = sorted({names[0] for names in parts.values() if names})
    split = any(top.lower() in TRAIN for top in tops)
    has_test = any(top.lower() in TEST for top in tops)
    if has_test and not split:
        raise DataError(f"{where}: there is a test/, but no train/; add it, with the same classes")
    beside = [top for top in tops if split and top.lower() not in TRAIN | TEST]
    if beside:
        raise DataError(
            f"{where}: the folder '{one_line(beside[0], 100)}' lies beside train/; only test/ and "
            "validation/ may: move or remove it"
        )
    named = {folder: names[split] for folder, names in parts.items() if len(names) > split}
    tests = {folder for folder, names in parts.items() if names and names[0].lower() in TEST}
    class_names = tuple(sorted(set(named.values())))
    for name in class_names:
        if not name.isprintable():
            raise DataError(f"{where}: the class name {name!a} does not print; rename it")
    if len(class_names) < 2:
        found = f"'{one_line(class_names[0], 100)}' alone" if class_names else "none"
        raise DataError(
            f"{where}: at least two folders, one per class, are expected; found: {found}"
        )
    if has_test:
        in_test = {name for folder, name in named.items() if folder in tests}
        in_train = {name for folder, name in named.items() if folder not in tests}
        for name in sorted(in_train ^ in_test):
            there, missing = ("train", "test") if name in in_train else ("test", "train")
            raise DataError(
                f"{where}: the class '{one_line(name, 100)}' is in {there}/ but not in {missing}/; "
                f"add images of it to {missing}/, or remove it from {there}/"
            )
    numbers = {name: number for number, name in enumerate(class_names)}
    meant = {
        folder: (numbers[named[folder]] if folder in named else -1, folder in tests)
        for folder in parts
    }
    return _Layout(class_names, meant, has_test)


def _check_counts(labels: np.ndarray, class_names: tuple[str, ...], what: str) -> None:
    counts = np.bincount(labels, minlength=len(class_names))
    for name in np.asarray(class_names)[counts == 0]:
        raise DataError(
            f"class {one_line(name, 100)}: none of its {what} is a readable image; add some, or "
            "remove its folder"
        )


def _split(
    pixels: np.ndarray,
    positions: np.ndarray,
    labels: np.ndarray,
    settings: "PixelSettings",
    skipped: int,
) -> RawSplit:
    def chunks() -> Iterator[np.ndarray]:
        step = images_per_chunk(settings.shape)
        for start in range(0, len(positions), step):
            yield np.asarray(pixels[positions[start : start + step]])

    return RawSplit(settings.shape, labels.astype(np.uint32), chunks, skipped, settings.fit)


def _check_path(path: Path) -> None:
    key = "params.yaml: download.folder.path"
    if path == NO_IMAGES:
        raise ParamsError(
            f"{key}: {path} holds no images; put yours into images/, one folder per class, and add "
            "`-S download.folder.path=images`, or name another folder, or an archive"
        )
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            shown = one_line(path, 80)
            raise ParamsError(
                f"{key}: {shown}: {error.strerror}; name a folder of images, or an archive"
            ) from None


def _check_digest(path: Path, expected: str) -> None:
    if path.is_dir():
        raise ParamsError(
            f"params.yaml: download.folder.sha256: {path} is a folder, which has none; empty it"
        )
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise DataError(f"{path}: not found; see download.folder.path in params.yaml") from None
    if found != expected:
        raise DataError(
            f"{path}: its SHA-256 is {found}, not download.folder.sha256; get the right file, or "
            "correct the key"
        )
