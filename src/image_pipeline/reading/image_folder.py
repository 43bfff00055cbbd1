"""A tar file of image files in class folders, decoded to splits."""

import os
import shutil
import sys
import tempfile
from array import array
from collections.abc import Callable, Iterator
from itertools import compress
from pathlib import Path

import numpy as np
from tqdm import tqdm

from image_pipeline.common.errors import DataError, one_line
from image_pipeline.downloading.dataset import RawDataset, RawSplit
from image_pipeline.downloading.sources import read_tar
from image_pipeline.reading.decoding import decode_all
from image_pipeline.reading.folder_layout import Layout, read_layout
from image_pipeline.reading.formats import SUFFIXES
from image_pipeline.reading.pixels import PixelSettings
from image_pipeline.reading.raw_files import images_per_chunk, translate_read_errors
from image_pipeline.reading.splitting import stratified_split
from image_pipeline.tensorizing.params import TensorizeFolderParams

MAX_NAMED = 10  # files that an error names
TEST_STREAM = 1  # beside the seed, so that test and validation split are independent
NO_CLASS = "it is in no class folder"
WRONG_SUFFIX = f"its name ends in none of {' '.join(SUFFIXES)}"


def read_image_folder(
    path: Path, source: str, settings: TensorizeFolderParams, seed: int
) -> RawDataset:
    """Decode every image, into a nameless temporary file beside the tar file's folder.

    Args:
        path: the tar file that `downloading.archives.pack` wrote.
        source: where its files came from, for error messages.
        settings: the shape of the images, and how the test split is made.
        seed: of the test split, if there is no `test/`.

    Raises:
        DataError: the folders are not laid out as expected; or a file is not a readable image,
            unless such files may be skipped.
    """
    pixel_settings = PixelSettings(
        settings.channels,
        settings.image_size,
        settings.fit,
        crop_fraction=settings.crop_fraction,
    )
    names, locations, folders = _list_files(path)
    layout = read_layout(folders, source)
    if layout.unlabelled and settings.unreadable == "error":
        raise DataError(
            f"{source}: {one_line(layout.unlabelled[0], 100)}/ has images, but no class folders; "
            "move it elsewhere (`predict` can score it), or set tensorize.folder.unreadable to skip"
        )
    names, locations = _leave_out(names, locations, layout, source)
    class_names = layout.class_names
    meanings = [layout.meanings[_folder_of(name)] for name in names]
    labels = np.array([label for label, _ in meanings], np.int32)
    in_test = np.array([test for _, test in meanings], bool)
    has_suffix = np.array([_is_image(name) for name in names], bool)
    candidates = np.flatnonzero((labels >= 0) & has_suffix)
    size = max(1, len(candidates) * pixel_settings.bytes_per_image)
    _check_room(path.parent.parent, len(candidates), size, pixel_settings)

    with path.open("rb") as tar, tempfile.TemporaryFile(dir=path.parent.parent) as decoded:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(decoded.fileno(), 0, size)  # fails now if the disk is too full
        offsets, sizes = locations[candidates].T
        result = decode_all(tar.fileno(), offsets, sizes, pixel_settings, decoded)
        failures = result.failures
        pixels: np.ndarray = np.memmap(
            decoded, np.uint8, "r", shape=(len(candidates), *pixel_settings.shape)
        )

    positions = np.setdiff1d(np.arange(len(candidates)), list(failures))
    unusable = np.setdiff1d(np.arange(len(names)), candidates[positions])
    if len(unusable):
        causes = {int(candidates[index]): cause for index, cause in failures.items()}
        message = _describe_unusable(names, labels, unusable, causes, source)
        if settings.unreadable == "error":
            raise DataError(f"{message}. Remove them, or set tensorize.folder.unreadable to skip")
        tqdm.write(f"WARNING: {message}; they are skipped", file=sys.stderr)
    if message := result.describe_bits():
        tqdm.write(f"tensorize: {source}: {message}", file=sys.stderr)
    labels, in_test = labels[candidates[positions]], in_test[candidates[positions]]
    if not layout.has_test:
        _check_counts(labels, class_names, "files")
        in_test = stratified_split(
            labels,
            class_names,
            settings.test_fraction,
            (seed, TEST_STREAM),
            "tensorize.folder.test_fraction",
        )
    files = [names[index] for index in candidates[positions]]
    train, test = (
        _split(
            pixels, positions[chosen], labels[chosen], class_names, list(compress(files, chosen))
        )
        for chosen in (~in_test, in_test)
    )
    skipped, fraction = len(unusable), settings.crop_fraction
    return RawDataset(class_names, train, test, skipped, settings.fit, result.bits, fraction)


def _leave_out(
    names: list[str], locations: np.ndarray, layout: Layout, source: str
) -> tuple[list[str], np.ndarray]:
    """Return the files without those that are no images and in no class folder, and name these."""
    stray = np.array(
        [layout.meanings[_folder_of(name)][0] < 0 and not _is_image(name) for name in names], bool
    )
    if stray.any():
        named = _name_first(np.flatnonzero(stray), lambda index: one_line(names[index], 100))
        tqdm.write(
            "tensorize: left out files that are no images and in no class folder "
            f"({stray.sum()} in {source}): {named}",
            file=sys.stderr,
        )
    return [names[index] for index in np.flatnonzero(~stray)], locations[~stray]


def _check_room(folder: Path, count: int, size: int, settings: PixelSettings) -> None:
    """Say how large the decoded images will be, and refuse what the disk cannot hold.

    They are there twice until the end: as decoded, and as the splits' tensors.
    """
    shape = " x ".join(map(str, settings.shape))
    what = f"{count:,} images of {shape} pixels take {size / 1e6:,.0f} MB"
    free = shutil.disk_usage(folder).free
    if free < 2 * size:
        raise DataError(
            f"{folder}: {what}, twice that until they are split, and {free / 1e6:,.0f} MB are free "
            "on this disk; free some space, or lower tensorize.folder.image_size"
        )
    print(f"tensorize: {what}, twice that until they are split")


def _describe_unusable(
    names: list[str], labels: np.ndarray, unusable: np.ndarray, causes: dict[int, str], source: str
) -> str:
    """Name the first unusable files with their causes, and count the others."""

    def describe(index: int) -> str:
        cause = causes.get(index) or (NO_CLASS if labels[index] < 0 else WRONG_SUFFIX)
        return f"{one_line(names[index], 100)} ({one_line(cause, 160)})"

    return (
        f"{len(unusable)} of {len(labels)} files in {source} cannot be used: "
        f"{_name_first(unusable, describe)}"
    )


def _name_first(files: np.ndarray, describe: Callable[[int], str]) -> str:
    """Describe the first files, and count the others."""
    described = [describe(index) for index in files[:MAX_NAMED].tolist()]
    if len(files) > MAX_NAMED:
        described.append(f"and {len(files) - MAX_NAMED} more")
    return "; ".join(described)


def _folder_of(name: str) -> str:
    return name.rpartition("/")[0]


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _list_files(path: Path) -> tuple[list[str], np.ndarray, dict[str, bool]]:
    """Read the headers of the tar file.

    Returns:
        The files' names; offset and size of their content, int64 `[N, 2]`; and all folders that
        hold files, or nothing, and whether an image lies directly in them.
    """
    names: list[str] = []
    locations: array[int] = array("q")
    folders: dict[str, bool] = {}
    with translate_read_errors(path, "tar"), path.open("rb") as tar:
        for entry in read_tar(tar):
            folder = entry.name if entry.isdir() else _folder_of(entry.name)
            has_image = entry.isreg() and _is_image(entry.name)
            folders[folder] = folders.get(folder, False) or has_image
            if entry.isreg():
                names.append(entry.name)
                locations.extend((entry.offset_data, entry.size))
    return names, np.frombuffer(locations, np.int64).reshape(-1, 2), folders


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
    class_names: tuple[str, ...],
    files: list[str],
) -> RawSplit:
    _check_counts(labels, class_names, "training or test files")
    channels, height, width = pixels.shape[1:]

    def chunks() -> Iterator[np.ndarray]:
        step = images_per_chunk(pixels.shape[1:])
        for start in range(0, len(positions), step):
            yield np.asarray(pixels[positions[start : start + step]])

    return RawSplit((channels, height, width), labels.astype(np.uint32), chunks, files)
