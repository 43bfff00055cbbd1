"""QMNIST's four files in small, beside torchvision's own class."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets as torchvision_datasets

from image_pipeline.datasets import qmnist
from published import PARAMS, REMEDY, idx, md5, whole
from refusals import refusal

COUNTS = {"train": 40, "test": 25}
LABELS = "qmnist-train-labels-idx2-int.gz"


def make_labels(count: int) -> np.ndarray:
    """Return the classes 0 to 9, over and over, and seven columns of any int32 values."""
    values = np.random.default_rng(1).integers(-(2**31), 2**31, (count, 8), dtype=np.int32)
    values[:, 0] = np.arange(count) % 10
    return values


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the four files, whose MD5s torchvision's class names."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    rng = np.random.default_rng(0)
    resources = {}
    for part, count in COUNTS.items():
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        (folder / f"qmnist-{part}-images-idx3-ubyte.gz").write_bytes(idx(images))
        (folder / f"qmnist-{part}-labels-idx2-int.gz").write_bytes(idx(make_labels(count)))
        published = torchvision_datasets.QMNIST.resources[part]
        names = [url.rsplit("/", 1)[1] for url, _ in published]
        resources[part] = [(f"http://127.0.0.1:9/{name}", md5(folder / name)) for name in names]
    monkeypatch.setattr(torchvision_datasets.QMNIST, "resources", resources)
    return folder


def test_its_files_are_fetched_and_read_as_torchvision_reads_them(
    mirror: Path, tmp_path: Path
) -> None:
    raw = tmp_path / "raw"
    qmnist.fetch(raw, str(mirror), PARAMS)
    assert sorted(raw.iterdir()) == sorted(raw / path.name for path in mirror.iterdir())

    shutil.copytree(mirror, tmp_path / "QMNIST" / "raw")
    read = qmnist.read(raw, PARAMS)
    for part, found in zip(COUNTS, (read.train, read.test), strict=True):
        theirs = torchvision_datasets.QMNIST(tmp_path, what=part, download=True)
        assert found.shape == (1, 28, 28)
        assert np.array_equal(whole(found)[:, 0], theirs.data.numpy())
        assert found.labels.dtype == np.uint8
        assert found.labels.tolist() == [target for _, target in theirs]


GOOD = make_labels(40)
NEGATIVE, TOO_LARGE = GOOD.copy(), GOOD.copy()
NEGATIVE[3, 0] = -1
TOO_LARGE[39, 0] = 256
BAD = {
    "seven columns": (idx(GOOD[:, :7]), "7 columns, expected 8"),
    "a label too few": (idx(GOOD[:39]), "39 labels for 40 images"),
    "a negative label": (idx(NEGATIVE), "the label -1 is not one of 0 to 9"),
    "a label beyond a byte": (idx(TOO_LARGE), "the label 256 is not one of 0 to 9"),
    "labels of MNIST": (
        idx(GOOD[:, 0].astype(np.uint8)),
        "not an IDX file of int32 values with 2 dimensions (it begins with 00 00 08 01)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_labels(name: str, mirror: Path) -> None:
    content, cause = BAD[name]
    (mirror / LABELS).write_bytes(content)
    message = refusal(mirror / LABELS, lambda _: qmnist.read(mirror, PARAMS))
    assert message.startswith(cause)
    assert message.endswith(REMEDY)
