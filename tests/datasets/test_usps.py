"""USPS's two files in small, beside torchvision's own class."""

import bz2
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchvision import datasets as torchvision_datasets

from image_pipeline.datasets import usps
from published import PARAMS, REMEDY, md5, whole
from refusals import quick, refusal, valid_or_refused

ZEROS = ["0"] * 256


def line(label: int | str, values: list[str]) -> bytes:
    pixels = (f"{index}:{value}" for index, value in enumerate(values, start=1))
    return f"{label} {' '.join(pixels)} \n".encode()


def make_text(count: int, seed: int) -> bytes:
    """Return images of noise with the labels 1 to 10, written with 0 to 17 digits."""
    rng = np.random.default_rng(seed)
    lines = []
    for number in range(count):
        values = [f"{value:.{number % 18}g}" for value in rng.uniform(-1, 1, 254)]
        lines.append(line(number % 10 + 1, ["-1", *values, "1"]))
    return b"".join(lines)


TRAIN, TEST = make_text(40, seed=0), make_text(25, seed=1)
# Each value with three decimals, as the file has them: 2,001, and the last line filled up.
MILS = [f"{thousandth / 1000:g}" for thousandth in range(-1000, 1001)] + ["-0", "+1"] * 23 + ["0"]
ALL_VALUES = b"".join(line(3, MILS[start : start + 256]) for start in range(0, 2048, 256))


def write(folder: Path, train: bytes, test: bytes = TEST) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "usps.bz2").write_bytes(bz2.compress(train))
    (folder / "usps.t.bz2").write_bytes(bz2.compress(test))


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the two files, whose MD5s torchvision's class names."""
    folder = tmp_path / "mirror"
    write(folder, TRAIN + ALL_VALUES)
    published = {
        part: [f"http://127.0.0.1:9/{name}", name, md5(folder / name)]
        for part, (_, name, _) in torchvision_datasets.USPS.split_list.items()
    }
    monkeypatch.setattr(torchvision_datasets.USPS, "split_list", published)
    return folder


def test_its_files_are_fetched_and_read_as_torchvision_reads_them(
    mirror: Path, tmp_path: Path
) -> None:
    raw = tmp_path / "raw"
    usps.fetch(raw, str(mirror), PARAMS)
    assert sorted(path.name for path in raw.iterdir()) == ["usps.bz2", "usps.t.bz2"]
    dataset = usps.read(raw, PARAMS)
    for train, found in ((True, dataset.train), (False, dataset.test)):
        theirs = torchvision_datasets.USPS(raw, train=train)
        assert found.shape == (1, 16, 16)
        images = whole(found)
        assert images.dtype == np.uint8
        assert np.array_equal(images[:, 0], theirs.data)
        assert found.labels.dtype == np.uint8
        assert found.labels.tolist() == theirs.targets
        assert images.min() == 0
        assert images.max() == 255


# Files that are not what they should be.


def read(path: Path) -> None:
    dataset = usps.read(path.parent, PARAMS)
    for split in (dataset.train, dataset.test):
        whole(split)


LIBSVM = "not in LIBSVM's format ("
LABEL = "a label is not one of 1 to 10"
MISSING = "an image lacks some of its 256 pixels"
BEYOND = "a pixel is not from -1 to 1"
ENDED = "not a valid bzip2 file (Compressed file ended before the end-of-stream marker was reached)"
BAD_LINES = {
    "label 0": (line(0, ZEROS), LABEL),
    "label 11": (line(11, ZEROS), LABEL),
    "half a label": (line("2.5", ZEROS), LABEL),
    "a word as label": (line("seven", ZEROS), f"{LIBSVM}could not convert string to float: "),
    "255 pixels": (line(3, ZEROS[1:]), MISSING),
    "too bright": (line(3, ["1.001", *ZEROS[1:]]), BEYOND),
    "too dark": (line(3, [*ZEROS[1:], "-2"]), BEYOND),
    "beyond float32": (line(3, ["1e99", *ZEROS[1:]]), BEYOND),
    "nan": (line(3, ["nan", *ZEROS[1:]]), BEYOND),
    "a long word": (b"3 " + bytes(40 << 20), LIBSVM),
    "a bomb": (b"3 " + bytes(99 << 20), "decompresses to more than 67108864 bytes"),
}
BAD_FILES = {
    "no lines": (bz2.compress(b""), f"it has no images{REMEDY}"),
    "a web page": (b"<html>", f"not a valid bzip2 file (Invalid data stream){REMEDY}"),
    "torn": (bz2.compress(TRAIN)[:-100], f"{ENDED}{REMEDY}"),
}


@pytest.mark.parametrize("name", [*BAD_LINES, *BAD_FILES])
def test_bad_files(name: str, tmp_path: Path) -> None:
    content, problem = BAD_FILES.get(name) or BAD_LINES[name]
    if name in BAD_LINES:
        content = bz2.compress(line(1, ZEROS) + content + TRAIN)
    write(tmp_path, TRAIN)
    (tmp_path / "usps.t.bz2").write_bytes(content)
    message = refusal(tmp_path / "usps.t.bz2", read)
    assert message.startswith(problem)
    assert message.endswith(REMEDY)
    assert len(message) < 400


GOOD_LINE = line(7, ["-1", "0.5"] * 128)


@quick
@given(
    start=st.integers(0, len(GOOD_LINE)),
    length=st.integers(0, 8),
    put=st.binary(max_size=8) | st.text(alphabet="0123456789.:-+e_ \n", max_size=8).map(str.encode),
)
def test_any_damage(
    start: int, length: int, put: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "usps"
    write(folder, GOOD_LINE[:start] + put + GOOD_LINE[start + length :], GOOD_LINE)
    path = folder / "usps.bz2"
    valid_or_refused(path, lambda: read(path), "dvc repro")
