"""The binary versions of CIFAR-10 and CIFAR-100, in small."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest

from containers import write_tar_gz
from image_pipeline.datasets import cifar10, cifar100
from published import PARAMS, REMEDY, whole
from refusals import refusal

IMAGES = np.random.default_rng(0).integers(0, 256, (80, 3, 32, 32), np.uint8)
ARCHIVE = cifar10.ARCHIVE.name
NAMES_FILE = "cifar-10-batches-bin/batches.meta.txt"
NAMES = {"cifar10": tuple("abcdefghij"), "cifar100": tuple(f"class_{n}" for n in range(100))}


def cifar10_files() -> dict[str, bytes]:
    """Return five files of 12 images and one of 20, not in the order of their names."""
    files = {}
    for number in (4, 2, 1, 5, 3):
        part = range((number - 1) * 12, number * 12)
        records = [bytes([index % 10]) + IMAGES[index].tobytes() for index in part]
        files[f"cifar-10-batches-bin/data_batch_{number}.bin"] = b"".join(records)
    records = [bytes([index % 10]) + IMAGES[index].tobytes() for index in range(60, 80)]
    files["cifar-10-batches-bin/test_batch.bin"] = b"".join(records)
    files[NAMES_FILE] = "\n".join((*NAMES["cifar10"], "\n")).encode()
    return files


def cifar100_files() -> dict[str, bytes]:
    """Return a coarse label, 99, before each finer one."""
    records = [bytes([99, index]) + IMAGES[index].tobytes() for index in range(80)]
    return {
        "cifar-100-binary/coarse_label_names.txt": b"fish\n",
        "cifar-100-binary/fine_label_names.txt": "\n".join(NAMES["cifar100"]).encode(),
        "cifar-100-binary/test.bin": b"".join(records[60:]),
        "cifar-100-binary/train.bin": b"".join(records[:60]),
    }


def test_cifar10_is_fetched_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tar_gz(tmp_path / ARCHIVE, cifar10_files())
    content = (tmp_path / ARCHIVE).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    published = dataclasses.replace(cifar10.ARCHIVE, digest=digest, size=len(content))
    monkeypatch.setattr(cifar10, "ARCHIVE", published)
    cifar10.fetch(tmp_path / "raw", str(tmp_path), PARAMS)
    dataset = cifar10.read(tmp_path / "raw", PARAMS)
    train, test = dataset.train, dataset.test
    assert dataset.class_names == NAMES["cifar10"]
    assert train.shape == (3, 32, 32)
    assert np.array_equal(whole(train), IMAGES[:60])
    assert np.array_equal(whole(test), IMAGES[60:])
    assert train.labels.tolist() == [index % 10 for index in range(60)]
    assert test.labels.tolist() == [index % 10 for index in range(60, 80)]


def test_cifar100_has_the_finer_labels(tmp_path: Path) -> None:
    write_tar_gz(tmp_path / cifar100.ARCHIVE.name, cifar100_files())
    dataset = cifar100.read(tmp_path, PARAMS)
    train, test = dataset.train, dataset.test
    assert dataset.class_names == NAMES["cifar100"]
    assert train.labels.tolist() == list(range(60))
    assert test.labels.tolist() == list(range(60, 80))
    assert np.array_equal(whole(test), IMAGES[60:])


TEST_BATCH = "cifar-10-batches-bin/test_batch.bin"
NAMES_TOLD = f"{NAMES_FILE} does not name 10 classes"
BAD: dict[str, tuple[dict[str, bytes], str]] = {
    "no test images": ({TEST_BATCH: b""}, "test_batch.bin has 0 bytes, not a multiple of 3073"),
    "half an image": ({TEST_BATCH: bytes(3173)}, "test_batch.bin has 3173 bytes, not a multiple"),
    "a label too high": (
        {TEST_BATCH: bytes([10]) + bytes(3072)},
        "test_batch.bin: the label 10 is not one of 0 to 9",
    ),
    "too few classes": ({NAMES_FILE: b"cat dog"}, NAMES_TOLD),
    "a class twice": ({NAMES_FILE: b"a b c d e f g h i i"}, NAMES_TOLD),
    "too many classes": ({NAMES_FILE: b"a b c d e f g h i j k"}, NAMES_TOLD),
}


def told(path: Path) -> str:
    message = refusal(path, lambda path: cifar10.read(path.parent, PARAMS))
    assert message.endswith(REMEDY)
    return message


@pytest.mark.parametrize("name", BAD)
def test_bad_archives(name: str, tmp_path: Path) -> None:
    files, cause = BAD[name]
    write_tar_gz(tmp_path / ARCHIVE, cifar10_files() | files)
    assert cause in told(tmp_path / ARCHIVE)


def test_an_archive_that_is_torn_or_lacks_a_file(tmp_path: Path) -> None:
    path, files = tmp_path / ARCHIVE, cifar10_files()
    write_tar_gz(path, files)
    path.write_bytes(path.read_bytes()[:20_000])
    assert "not a valid tar.gz file (" in told(path)
    del files[TEST_BATCH]
    write_tar_gz(path, files)
    assert "it has no file cifar-10-batches-bin/test_batch.bin" in told(path)
