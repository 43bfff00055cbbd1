"""IDX files that are not what they claim to be."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_pipeline.reading.idx import iterate_idx
from published import REMEDY
from refusals import damaged, quick, refusal, valid_or_refused

VALUES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def idx(values: np.ndarray, *shape: int) -> bytes:
    """Return an IDX file's bytes, unpacked; its header declares `shape` where one is given."""
    sizes = shape or values.shape
    return bytes((0, 0, 8, len(sizes))) + struct.pack(f">{len(sizes)}I", *sizes) + values.tobytes()


def read_idx(path: Path, rank: int = 3) -> np.ndarray:
    """Read a whole file."""
    parts = list(iterate_idx(path, rank, rows=1 << 32))
    return parts[0] if parts else np.empty(0, np.uint8)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("idx") / "values.gz"


def test_several_gzip_members_are_one_file(file: Path) -> None:
    content = idx(VALUES)
    file.write_bytes(gzip.compress(content[:20]) + gzip.compress(content[20:]))
    found = read_idx(file)
    assert found.dtype == np.uint8
    assert np.array_equal(found, VALUES)
    file.write_bytes(gzip.compress(content) + gzip.compress(b"?"))
    assert refusal(file, read_idx) == f"its header declares 24 bytes, it holds more{REMEDY}"


PACKED = gzip.compress(idx(VALUES), mtime=0)
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it begins with nothing"),
    "a web page": (b"<html>", "not a valid gzip file (Not a gzipped file (b'<h'))"),
    "torn": (PACKED[:-9], "not a valid gzip file ("),
    "a flipped bit": (PACKED[:-6] + bytes([PACKED[-6] ^ 1]) + PACKED[-5:], "CRC check failed"),
    "another type": (gzip.compress(b"\0\0\x0d" + idx(VALUES)[3:]), "it begins with 00 00 0d 03)"),
    "another rank": (gzip.compress(idx(VALUES[0])), "3 dimensions (it begins with 00 00 08 02"),
    "a short header": (gzip.compress(idx(VALUES)[:15]), "not an IDX file of uint8 values"),
    "a value too few": (gzip.compress(idx(VALUES)[:-1]), "declares 24 bytes, it holds 23 bytes"),
    "a value too many": (gzip.compress(idx(VALUES) + b"?"), "declares 24 bytes, it holds more"),
    "too large": (gzip.compress(idx(VALUES, 9, 1 << 15, 1 << 15)), "9663676416 bytes, too many"),
    "a bomb": (gzip.compress(idx(VALUES)[:-24] + bytes(300 << 20), 1), "bytes, it holds more"),
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_are_something_else(name: str, file: Path) -> None:
    content, cause = BAD[name]
    file.write_bytes(content)
    message = refusal(file, read_idx)
    assert cause in message
    assert message.endswith(REMEDY)


def test_what_is_not_a_file(tmp_path: Path) -> None:
    path = tmp_path / "values.gz"
    assert refusal(path, read_idx) == "not found; run `dvc repro --force download`"
    path.mkdir()
    assert refusal(path, read_idx) == f"cannot be read (Is a directory){REMEDY}"


HEADERS = st.binary(max_size=52).map(lambda rest: gzip.compress(b"\0\0\x08\x03" + rest))
ANY = st.binary(max_size=200)


@settings(quick, max_examples=400)
@given(content=ANY | ANY.map(gzip.compress) | damaged(PACKED) | HEADERS, rank=st.integers(1, 4))
def test_any_bytes(content: bytes, rank: int, file: Path) -> None:
    file.write_bytes(content)
    valid_or_refused(file, lambda: read_idx(file, rank), "dvc repro")
