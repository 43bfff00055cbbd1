"""IDX files, and the files of MNIST and digits, that are not what they claim to be."""

import gzip
import struct
import time
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_pipeline.common.errors import DataError
from image_pipeline.datasets import digits, mnist
from image_pipeline.datasets.digits import FILE
from image_pipeline.reading.digits import read_rows
from image_pipeline.reading.idx import iterate_idx
from published import PARAMS, REMEDY, whole
from refusals import damaged, quick, refusal, said_by, valid_or_refused

VALUES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def idx(values: np.ndarray, *shape: int) -> bytes:
    """Return an IDX file's bytes, unpacked; its header declares `shape` where one is given."""
    sizes = shape or values.shape
    return bytes((0, 0, 8, len(sizes))) + struct.pack(f">{len(sizes)}I", *sizes) + values.tobytes()


def read_idx(path: Path, rank: int) -> np.ndarray:
    """Read a whole file."""
    parts = list(iterate_idx(path, rank, rows=1 << 32))
    return parts[0] if parts else np.empty(0, np.uint8)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("idx") / "values.gz"


def read_images(path: Path) -> np.ndarray:
    return read_idx(path, 3)


def test_a_right_file(file: Path) -> None:
    file.write_bytes(gzip.compress(idx(VALUES)))
    found = read_idx(file, rank=3)
    assert found.dtype == np.uint8
    assert np.array_equal(found, VALUES)


def test_several_gzip_members_are_one_file(file: Path) -> None:
    content = idx(VALUES)
    file.write_bytes(gzip.compress(content[:20]) + gzip.compress(content[20:]))
    assert np.array_equal(read_idx(file, rank=3), VALUES)
    file.write_bytes(gzip.compress(content) + gzip.compress(b"?"))
    assert refusal(file, read_images) == f"its header declares 24 bytes, it holds more{REMEDY}"


PACKED = gzip.compress(idx(VALUES), mtime=0)
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it begins with nothing"),
    "not gzip": (idx(VALUES), "not a valid gzip file (Not a gzipped file"),
    "a web page": (b"<html>", "not a valid gzip file (Not a gzipped file (b'<h'))"),
    "torn": (PACKED[:-9], "not a valid gzip file ("),
    "torn in the header": (PACKED[:5], "not a valid gzip file ("),
    "a flipped bit": (PACKED[:-6] + bytes([PACKED[-6] ^ 1]) + PACKED[-5:], "CRC check failed"),
    "trailing garbage": (PACKED + b"garbage", "not a valid gzip file (Not a gzipped file"),
    "an empty gzip file": (gzip.compress(b""), "it begins with nothing"),
    "another type": (gzip.compress(b"\0\0\x0d" + idx(VALUES)[3:]), "it begins with 00 00 0d 03)"),
    "another rank": (gzip.compress(idx(VALUES[0])), "3 dimensions (it begins with 00 00 08 02"),
    "a short header": (gzip.compress(idx(VALUES)[:15]), "not an IDX file of uint8 values"),
    "a value too few": (gzip.compress(idx(VALUES)[:-1]), "declares 24 bytes, it holds 23 bytes"),
    "a value too many": (gzip.compress(idx(VALUES) + b"?"), "declares 24 bytes, it holds more"),
    "too large": (gzip.compress(idx(VALUES, 9, 1 << 15, 1 << 15)), "9663676416 bytes, too many"),
    "the largest": (gzip.compress(idx(VALUES, *[(1 << 32) - 1] * 3)), "bytes, too many"),
    "a bomb": (gzip.compress(idx(VALUES)[:-24] + bytes(300 << 20), 1), "bytes, it holds more"),
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_are_something_else(name: str, file: Path) -> None:
    content, cause = BAD[name]
    file.write_bytes(content)
    message = refusal(file, read_images)
    assert cause in message
    assert message.endswith(REMEDY)


def test_what_is_not_a_file(tmp_path: Path) -> None:
    path = tmp_path / "values.gz"
    assert refusal(path, read_images) == "not found; run `dvc repro --force download`"
    path.symlink_to(tmp_path / "nowhere")
    assert refusal(path, read_images) == "not found; run `dvc repro --force download`"
    path.unlink()
    path.mkdir()
    assert refusal(path, read_images) == f"cannot be read (Is a directory){REMEDY}"


HEADERS = st.binary(max_size=52).map(lambda rest: gzip.compress(b"\0\0\x08\x03" + rest))
ANY = st.binary(max_size=200)


@settings(quick, max_examples=400)
@given(content=ANY | ANY.map(gzip.compress) | damaged(PACKED) | HEADERS, rank=st.integers(1, 4))
def test_any_bytes(content: bytes, rank: int, file: Path) -> None:
    file.write_bytes(content)
    valid_or_refused(file, lambda: read_idx(file, rank), "dvc repro")


# MNIST's four files, in small.


def write_mnist(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    for prefix in ("train", "t10k"):
        for name, values in (("images-idx3", images), ("labels-idx1", labels)):
            (folder / f"{prefix}-{name}-ubyte.gz").write_bytes(gzip.compress(idx(values)))


LABELS = np.array([3, 9, 0], np.uint8)
IMAGES = np.arange(3 * 28 * 28, dtype=np.int64).astype(np.uint8).reshape(3, 28, 28)


def test_mnist_is_read_as_it_is(tmp_path: Path) -> None:
    write_mnist(tmp_path, IMAGES, LABELS)
    dataset = mnist.read(tmp_path, PARAMS)
    assert dataset.train.shape == dataset.test.shape == (1, 28, 28)
    assert np.array_equal(whole(dataset.train), IMAGES[:, np.newaxis])
    assert dataset.train.labels.tolist() == [3, 9, 0]


@pytest.mark.parametrize(
    ("images", "labels", "cause"),
    [
        (IMAGES, LABELS[:2], "train-labels-idx1-ubyte.gz: 2 labels for 3 images"),
        (IMAGES, LABELS + 1, "train-labels-idx1-ubyte.gz: the label 10 is not one of 0 to 9"),
        (IMAGES[:, :14], LABELS, "train-images-idx3-ubyte.gz: 3 images of (14, 28) pixels"),
        (IMAGES[:0], LABELS[:0], "train-images-idx3-ubyte.gz: 0 images of (28, 28) pixels"),
    ],
)
def test_mnist_files_that_do_not_fit(
    images: np.ndarray, labels: np.ndarray, cause: str, tmp_path: Path
) -> None:
    write_mnist(tmp_path, images, labels)
    message = said_by(DataError, mnist.read, tmp_path, PARAMS)
    assert cause in message
    assert message.endswith(REMEDY)


# The digits' one file.

DIGITS = files("sklearn.datasets.data").joinpath(FILE).read_bytes()


def test_digits_are_read_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not found; run `dvc repro --force download`"):
        digits.read(tmp_path, PARAMS)
    (tmp_path / FILE).write_bytes(DIGITS)
    rows = read_rows(tmp_path / FILE)
    assert rows.shape == (1797, 65)
    assert rows[0, 3] == 13
    assert rows[0, -1] == 0


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "its SHA-256 differs"),
        (DIGITS[:-1], "not a valid gzip file"),
        (DIGITS[:5000], "not a valid gzip file"),
        (DIGITS[:5000] + b"?" + DIGITS[5001:], ""),
        (b"1,2,3", "not a valid gzip file"),
        (gzip.compress(b"1,2,3"), "not scikit-learn's digits (its SHA-256 differs)"),
        (gzip.compress(bytes(300 << 20), 1), "not scikit-learn's digits (its SHA-256 differs)"),
    ],
    ids=range(7),
)
def test_digits_that_are_something_else(content: bytes, cause: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(content)
    start = time.monotonic()
    message = said_by(DataError, digits.read, tmp_path, PARAMS)
    assert time.monotonic() - start < 20
    assert cause in message
    assert message.endswith(REMEDY)


@quick
@given(content=damaged(DIGITS))
def test_any_damage_to_digits(content: bytes, file: Path) -> None:
    file.write_bytes(content)
    valid_or_refused(file, lambda: read_rows(file), "dvc repro")
