"""The digits that come with scikit-learn."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from image_pipeline.datasets import digits
from image_pipeline.reading.digits import center_digit
from published import PARAMS, REMEDY, whole
from refusals import refusal


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    digits.fetch(tmp_path, None, PARAMS)
    return tmp_path


def test_sizes_classes_and_bytes(raw: Path) -> None:
    dataset = digits.read(raw, PARAMS)
    train, test = dataset.train, dataset.test
    images = [whole(train), whole(test)]
    assert images[0].shape == (1437, 1, 28, 28)
    assert images[1].shape == (360, 1, 28, 28)
    assert images[0].dtype == np.uint8
    assert np.bincount(test.labels).tolist() == [36, 36, 35, 37, 36, 37, 36, 36, 35, 36]
    digest = hashlib.sha256()
    for pixels, split in zip(images, (train, test), strict=True):
        digest.update(pixels.tobytes() + split.labels.astype("<i8").tobytes())
    assert digest.hexdigest() == "22273646b6821291493bb721dda4aacd5cce9b89f462577fe425b8cadc05c906"


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"1,2,3", "not a valid gzip file (Not a gzipped file (b'1,'))"),
        (gzip.compress(b"1,2,3"), "not scikit-learn's digits (its SHA-256 differs)"),
        (gzip.compress(bytes(300 << 20), 1), "not scikit-learn's digits (its SHA-256 differs)"),
    ],
    ids=["no gzip file", "another table", "a bomb"],
)
def test_another_file_is_refused(content: bytes, cause: str, tmp_path: Path) -> None:
    (tmp_path / digits.FILE).write_bytes(content)
    message = refusal(tmp_path / digits.FILE, lambda path: digits.read(path.parent, PARAMS))
    assert message == cause + REMEDY


def test_a_file_without_its_last_byte_is_refused(raw: Path) -> None:
    path = raw / digits.FILE
    path.write_bytes(path.read_bytes()[:-1])
    message = refusal(path, lambda path: digits.read(path.parent, PARAMS))
    assert message.startswith("not a valid gzip file (Compressed file ended")


def test_a_block_by_hand() -> None:
    # Four rows of two full pixels: the longer side becomes 20 pixels, the shorter one 10.
    image = np.zeros((8, 8), np.uint8)
    image[1:5, 6:8] = 16
    expected = np.zeros((28, 28), np.uint8)
    expected[4:24, 9:19] = 255
    assert np.array_equal(center_digit(image), expected)
