"""EMNIST's zip file in small: all six splits, read in place, beside torchvision's own class."""

import io
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from torchvision import datasets as torchvision_datasets

from image_pipeline.datasets import emnist
from image_pipeline.datasets.emnist import ARCHIVE, CLASS_NAMES
from image_pipeline.downloading.dataset import RawDataset
from image_pipeline.reading.raw_files import CHUNK_BYTES
from published import PARAMS, REMEDY, idx, md5, whole
from refusals import damaged, quick, refusal, valid_or_refused

COUNTS = {"train": 150, "test": 70}
Files = dict[str, bytes]


def read(split: str, folder: Path) -> RawDataset:
    tensorize = PARAMS.tensorize.model_copy(update={"emnist_split": split})
    return emnist.read(folder, PARAMS.model_copy(update={"tensorize": tensorize}))


def first_label(split: str) -> int:
    return 1 if split == "letters" else 0


def make_files(split: str) -> Files:
    """Return a split's four files as they lie in the zip file: images of noise, all the labels."""
    rng = np.random.default_rng(list(CLASS_NAMES).index(split))
    files = {}
    for part, count in COUNTS.items():
        name = f"gzip/emnist-{split}-{part}"
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        labels = np.arange(count) % len(CLASS_NAMES[split]) + first_label(split)
        files[f"{name}-images-idx3-ubyte.gz"] = idx(images)
        files[f"{name}-labels-idx1-ubyte.gz"] = idx(labels.astype(np.uint8))
    return files


FILES = {split: make_files(split) for split in CLASS_NAMES}
LETTERS = FILES["letters"]
TRAIN_IMAGES = "gzip/emnist-letters-train-images-idx3-ubyte.gz"
TRAIN_LABELS = "gzip/emnist-letters-train-labels-idx1-ubyte.gz"


def pack(
    files: Files, method: int = zipfile.ZIP_DEFLATED, sizes: dict[str, int] | None = None
) -> bytes:
    """Return a zip file's bytes; its directory claims `sizes`."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        archive.mkdir("gzip")
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
        for name, size in (sizes or {}).items():
            archive.getinfo(name).file_size = size
    return packed.getvalue()


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the zip file, whose MD5 torchvision's class names."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    everything = {name: content for files in FILES.values() for name, content in files.items()}
    (folder / ARCHIVE).write_bytes(pack(everything))
    monkeypatch.setattr(torchvision_datasets.EMNIST, "md5", md5(folder / ARCHIVE))
    monkeypatch.setattr(torchvision_datasets.EMNIST, "url", f"http://127.0.0.1:9/{ARCHIVE}")
    return folder


@pytest.mark.parametrize("split", CLASS_NAMES)
def test_a_split_is_fetched_and_read_as_torchvision_reads_it(
    split: str, mirror: Path, tmp_path: Path
) -> None:
    raw = tmp_path / "raw"
    emnist.fetch(raw, str(mirror), PARAMS)
    # Whichever the split: download need not run again for another one.
    assert [path.name for path in raw.iterdir()] == [ARCHIVE]

    shutil.copytree(mirror, tmp_path / "EMNIST" / "raw")
    dataset = read(split, raw)
    for part, found in zip(COUNTS, (dataset.train, dataset.test), strict=True):
        theirs = torchvision_datasets.EMNIST(tmp_path, split, train=part == "train", download=True)
        assert found.shape == (1, 28, 28)
        images = whole(found)
        assert images.dtype == np.uint8
        # torchvision leaves them as they are in the file, column by column: mirrored.
        assert np.array_equal(images[:, 0], theirs.data.numpy().transpose(0, 2, 1))
        assert np.array_equal(found.labels + first_label(split), theirs.targets.numpy())
        assert [dataset.class_names[label] for label in found.labels] == [
            theirs.classes[target] for target in theirs.targets
        ]
    assert list(raw.iterdir()) == [raw / ARCHIVE]


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    images = np.zeros((20_000, 28, 28), np.uint8)  # 15 chunks
    files = {
        name: idx(images) if "images" in name else idx(np.ones(len(images), np.uint8))
        for name in LETTERS
    }
    (tmp_path / ARCHIVE).write_bytes(pack(files, zipfile.ZIP_STORED))
    train = read("letters", tmp_path).train
    tracemalloc.start()
    try:
        assert sum(len(chunk) for chunk in train.chunks()) == len(images)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6 * CHUNK_BYTES


# Zip files that are not what they should be.


def read_letters(path: Path) -> None:
    letters = read("letters", path.parent)
    for split in (letters.train, letters.test):
        whole(split)


BYCLASS_LABELS = FILES["byclass"][TRAIN_LABELS.replace("letters", "byclass")]
ZIP = pack(LETTERS, zipfile.ZIP_STORED)
BAD: dict[str, Callable[[], bytes]] = {
    "not a valid zip file (File is not a zip file)": lambda: b"<html>" * 99,
    "(": lambda: ZIP[20_000:],
    f"{TRAIN_LABELS}: not in this zip": (
        lambda: pack({name: LETTERS[name] for name in LETTERS if name != TRAIN_LABELS})
    ),
    f"{TRAIN_IMAGES}: claims 1099511627776 bytes, more than the whole zip file": (
        lambda: pack(LETTERS, sizes={TRAIN_IMAGES: 1 << 40})
    ),
    f"not a valid zip file (Bad CRC-32 for file '{TRAIN_IMAGES}')": (
        lambda: pack(LETTERS, zipfile.ZIP_STORED, {TRAIN_IMAGES: len(LETTERS[TRAIN_IMAGES]) - 1})
    ),
    f"{TRAIN_IMAGES}: neither stored nor deflated in its zip file": (
        lambda: pack(LETTERS, zipfile.ZIP_LZMA)
    ),
    "is encrypted": lambda: ZIP.replace(b"PK\1\2\x14\3\x14\0\0\0", b"PK\1\2\x14\3\x14\0\1\0"),
    f"{TRAIN_LABELS}: the label 0 is not one of 1 to 26": (
        lambda: pack(LETTERS | {TRAIN_LABELS: BYCLASS_LABELS})
    ),
}


@pytest.mark.parametrize(("cause", "make"), BAD.items())
def test_bad_zip_files(cause: str, make: Callable[[], bytes], tmp_path: Path) -> None:
    (tmp_path / ARCHIVE).write_bytes(make())
    message = refusal(tmp_path / ARCHIVE, read_letters)
    assert cause in message
    assert message.endswith(REMEDY)


ONE = {name: idx(np.ones((1, 28, 28) if "images" in name else 1, np.uint8)) for name in LETTERS}
TINY = pack(ONE, zipfile.ZIP_STORED)


@settings(quick, max_examples=300)
@given(content=damaged(TINY))
def test_any_damage(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / ARCHIVE
    path.write_bytes(content)
    valid_or_refused(path, lambda: read_letters(path), "dvc repro")
