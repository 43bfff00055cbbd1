"""The digits that come with scikit-learn."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from image_pipeline.datasets import digits
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


def test_another_file_is_refused(raw: Path) -> None:
    path = raw / digits.FILE
    ended = "Compressed file ended before the end-of-stream marker was reached"
    for content, cause in (
        (path.read_bytes()[:-1], f"not a valid gzip file ({ended})"),
        (gzip.compress(b"1,2,3"), "not scikit-learn's digits (its SHA-256 differs)"),
    ):
        path.write_bytes(content)
        message = refusal(path, lambda path: digits.read(path.parent, PARAMS))
        assert message == cause + REMEDY
