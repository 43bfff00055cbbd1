"""The data sets published in MNIST's four files, on small files made in their format."""

from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets as torchvision_datasets

from image_pipeline.common.errors import DownloadError
from image_pipeline.datasets import fashion_mnist, kmnist, mnist
from image_pipeline.downloading.dataset import Dataset
from published import PARAMS, idx, md5, whole

CLASS_NAMES = {
    "MNIST": mnist.CLASS_NAMES,
    "FashionMNIST": fashion_mnist.CLASS_NAMES,
    "KMNIST": kmnist.CLASS_NAMES,
}
FAMILY: dict[str, Dataset] = {"FashionMNIST": fashion_mnist, "KMNIST": kmnist}
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 28, 28), np.uint8)
LABELS = np.arange(12, dtype=np.uint8) % 10


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """Return a folder with the four files: twelve training and five test images."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    for prefix, count in (("train", 12), ("t10k", 5)):
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(idx(IMAGES[:count]))
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(idx(LABELS[:count]))
    return folder


def publish(name: str, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision's class name the small files' checksums, and no mirror of its own."""
    source = getattr(torchvision_datasets, name)
    resources = [(file, md5(mirror / file)) for file, _ in source.resources]
    monkeypatch.setattr(source, "resources", resources)
    monkeypatch.setattr(source, "mirrors", [])


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_class_names_are_torchvisions(name: str) -> None:
    classes = getattr(torchvision_datasets, name).classes
    assert list(CLASS_NAMES[name]) == [word.split(" - ")[0] for word in classes]


@pytest.mark.parametrize("name", FAMILY)
def test_files_are_fetched_by_their_md5_and_read(
    name: str, mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(name, mirror, monkeypatch)
    raw = tmp_path / "raw"
    FAMILY[name].fetch(raw, str(mirror), PARAMS)
    assert sorted(path.name for path in raw.iterdir()) == sorted(
        path.name for path in mirror.iterdir()
    )
    dataset = FAMILY[name].read(raw, PARAMS)
    assert dataset.train.shape == (1, 28, 28)
    assert np.array_equal(whole(dataset.train)[:, 0], IMAGES)
    assert np.array_equal(dataset.train.labels, LABELS)
    assert np.array_equal(whole(dataset.test)[:, 0], IMAGES[:5])
    assert dataset.test.labels.tolist() == [0, 1, 2, 3, 4]

    before = {path: path.stat().st_mtime_ns for path in raw.iterdir()}
    # All is there and right: nothing is asked.
    FAMILY[name].fetch(raw, str(tmp_path / "nowhere"), PARAMS)
    assert before == {path: path.stat().st_mtime_ns for path in raw.iterdir()}


@pytest.mark.parametrize("content", [b"", b"<html>", None], ids=["empty", "a web page", "torn"])
def test_another_file_is_refused(
    content: bytes | None, mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("KMNIST", mirror, monkeypatch)
    images = mirror / "train-images-idx3-ubyte.gz"
    images.write_bytes(images.read_bytes()[:-1] if content is None else content)
    raw = tmp_path / "raw"
    with pytest.raises(DownloadError, match="its checksum is wrong: the mirror holds a differ"):
        kmnist.fetch(raw, str(mirror), PARAMS)
    assert not list(raw.glob("*images*"))


def test_a_file_of_unknown_size_is_bounded(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("FashionMNIST", mirror, monkeypatch)
    monkeypatch.setattr("image_pipeline.downloading.mirrors.MAX_BYTES", 1000)
    with pytest.raises(DownloadError, match="longer than the expected 1000 bytes"):
        fashion_mnist.fetch(tmp_path / "raw", str(mirror), PARAMS)
    assert not list((tmp_path / "raw").iterdir())
