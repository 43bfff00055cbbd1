"""The data sets published in MNIST's four files, on small files made in their format."""

from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets as torchvision_datasets

from image_pipeline.datasets import fashion_mnist, kmnist, mnist, qmnist
from image_pipeline.downloading.dataset import Dataset
from published import PARAMS, REMEDY, idx, md5, whole
from refusals import refusal

CLASS_NAMES = {
    "MNIST": mnist.CLASS_NAMES,
    "FashionMNIST": fashion_mnist.CLASS_NAMES,
    "KMNIST": kmnist.CLASS_NAMES,
    "QMNIST": qmnist.CLASS_NAMES,
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


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_class_names_are_torchvisions(name: str) -> None:
    classes = getattr(torchvision_datasets, name).classes
    assert list(CLASS_NAMES[name]) == [word.split(" - ")[0] for word in classes]


@pytest.mark.parametrize("name", FAMILY)
def test_files_are_fetched_by_their_md5_and_read(
    name: str, mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = getattr(torchvision_datasets, name)
    resources = [(file, md5(mirror / file)) for file, _ in source.resources]
    monkeypatch.setattr(source, "resources", resources)
    monkeypatch.setattr(source, "mirrors", [])
    raw = tmp_path / "raw"
    FAMILY[name].fetch(raw, str(mirror), PARAMS)
    assert sorted(raw.iterdir()) == sorted(raw / path.name for path in mirror.iterdir())
    dataset = FAMILY[name].read(raw, PARAMS)
    assert dataset.train.shape == (1, 28, 28)
    assert np.array_equal(whole(dataset.train)[:, 0], IMAGES)
    assert np.array_equal(dataset.train.labels, LABELS)
    assert np.array_equal(whole(dataset.test)[:, 0], IMAGES[:5])
    assert dataset.test.labels.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("images", [IMAGES[:, :14], IMAGES[:0]])
def test_images_of_another_size_are_refused(images: np.ndarray, mirror: Path) -> None:
    path = mirror / "train-images-idx3-ubyte.gz"
    path.write_bytes(idx(images))
    assert refusal(path, lambda path: mnist.read(path.parent, PARAMS)) == (
        f"{len(images)} images of {images.shape[1:]} pixels, expected at least one of (28, 28)"
        f"{REMEDY}"
    )
