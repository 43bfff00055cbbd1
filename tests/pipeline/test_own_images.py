"""A folder of 5,000 custom images, through the whole pipeline, and back to MNIST.

They are MNIST's own, so that it is known what must arrive; where MNIST is not at hand, the digits
that ship with scikit-learn.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML
from safetensors import safe_open
from safetensors.numpy import load_file

from image_pipeline.datasets import digits
from image_pipeline.reading.idx import iterate_idx
from project import IN_CI, ROOT, SHARED_MNIST, Project, require
from published import PARAMS, whole

# Two of them differ only in case.
NAMES = ("zero", "one", "two", "Two", "four", "five", "six", "seven", "eight", "nine")
CLASSES = tuple(sorted(NAMES))
SPLITS = {"train": 4000, "test": 1000}
KINDS = 6  # of files, in turn
LEARNING = ("epochs=4", "batch_size=32", "loss.cross_entropy.label_smoothing=0")


def real_images(split: str, count: int, tmp_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the first images of a split, uint8 `[N, 28, 28]`, and the digits they show."""
    if SHARED_MNIST.is_dir():
        prefix = {"train": "train", "test": "t10k"}[split]
        images, labels = (
            next(iter(iterate_idx(SHARED_MNIST / f"{prefix}-{name}-ubyte.gz", rank, rows=count)))
            for name, rank in (("images-idx3", 3), ("labels-idx1", 1))
        )
        return images, labels
    assert not IN_CI
    digits.fetch(tmp_path, None, PARAMS)
    dataset = digits.read(tmp_path, PARAMS)
    found = {"train": dataset.train, "test": dataset.test}[split]
    images = whole(found)[:, 0]
    return images[:count], found.labels[:count]


def write_image(path: Path, pixels: np.ndarray, kind: int) -> None:
    """Write an image: PNG and JPEG mixed, in several sizes, some in colour."""
    image = Image.fromarray(pixels)
    if kind in (2, 3):  # larger
        image = image.resize((28 * kind, 28 * kind), Image.Resampling.NEAREST)
    if kind in (1, 2):
        image = image.convert("RGB")
    if kind == 4:  # not square
        wider = Image.new("L", (48, 28))
        wider.paste(image, (10, 0))
        image = wider
    if kind in (0, 2, 4):
        image.save(path.with_suffix(".png"))
    else:
        image.save(path.with_suffix(".jpg"), quality=95)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Return a folder of images, and for each split what is in it: pixels, labels, kinds."""
    root = tmp_path_factory.mktemp("own") / "photos"
    known = {}
    for split, count in SPLITS.items():
        images, labels = real_images(split, count, root.parent / "digits")
        kinds = np.arange(len(images)) % KINDS
        for number, (pixels, label, kind) in enumerate(zip(images, labels, kinds, strict=True)):
            path = root / split / NAMES[label] / f"{number:04}"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, pixels, int(kind))
        # Files come sorted by class, then by number.
        expected = np.array([CLASSES.index(NAMES[label]) for label in labels])
        order = np.argsort(expected, stable=True)
        known[split] = images[order], expected[order], kinds[order]
    return root, known


def metadata(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="numpy") as file:
        found: dict[str, Any] = json.loads(file.metadata()["image_pipeline"])
    return found


def test_an_experiment_on_them(
    finished: Project, folder: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    root, known = folder
    before, copy = finished.hashes(), finished.copy_to(tmp_path / "copy")
    command = "dvc exp run -S download.dataset=folder -S download.folder.path=images"
    assert f"\n{command}\n" in (ROOT / "README.md").read_text()
    shutil.copytree(root, copy.root / "images", dirs_exist_ok=True)
    learning = [word for setting in LEARNING for word in ("-S", f"train.{setting}")]
    done = copy.run(*command.split(), *learning, "-S", "tensorize.folder.fit=crop")
    assert "WARNING" not in done.stderr
    assert "download: images: 'test/Two' and 'test/two' differ only in case" in done.stdout

    tensors = copy.root / "data" / "tensors"
    for split in ("train", "validation", "test"):
        assert tuple(metadata(tensors / f"{split}.safetensors")["class_names"]) == CLASSES
    found = {split: load_file(tensors / f"{split}.safetensors") for split in ("train", "test")}
    kept_back = load_file(tensors / "validation.safetensors")
    images, labels, kinds = known["test"]
    assert np.array_equal(found["test"]["labels"], labels)
    check_pixels(found["test"]["images"][:, 0], images, kinds)

    # The training images are those that were given, each with its label, less those for validation.
    images, labels, kinds = known["train"]
    assert len(kept_back["labels"]) == pytest.approx(len(labels) / 10, abs=5)
    exact = np.isin(kinds, (0, 4))  # these arrive to the bit, so they can be found again
    given = sorted((x.tobytes(), n) for x, n in zip(images[exact], labels[exact], strict=True))
    arrived = {
        (image.tobytes(), int(label))
        for part in (found["train"], kept_back)
        for image, label in zip(part["images"][:, 0], part["labels"], strict=True)
    }
    assert set(given) <= arrived
    by_class = np.bincount(found["train"]["labels"]) + np.bincount(kept_back["labels"])
    assert by_class.tolist() == np.bincount(labels).tolist()

    metrics = json.loads((copy.root / "metrics" / "test.json").read_text())
    assert metrics["images"] == len(known["test"][1])
    assert metrics["accuracy"] > 0.9
    predictions = (copy.root / "plots" / "predictions.csv").read_text()
    assert all(f",{name}\n" in predictions or f",{name}," in predictions for name in CLASSES)

    # And back again, without running anything.
    for split in SPLITS:
        shutil.rmtree(copy.root / "images" / split)
    copy.run("git", "checkout", ".")
    again = copy.run("dvc", "repro")
    assert "Running stage" not in again.stdout
    assert copy.hashes() == before
    assert copy.git_status() == ""


def counts(project: Project) -> list[int]:
    """Return how many images there are in the three splits."""
    folder = project.root / "data" / "tensors"
    names = ("train", "validation", "test")
    return [len(load_file(folder / f"{name}.safetensors")["labels"]) for name in names]


def check_pixels(found: np.ndarray, given: np.ndarray, kinds: np.ndarray) -> None:
    """Compare images with what they were made of: to the bit, or as near as JPEG and scaling go."""
    exact = np.isin(kinds, (0, 4))
    assert np.array_equal(found[exact], given[exact])
    difference = np.abs(found.astype(int) - given).mean(axis=(1, 2))
    assert difference.max() < 12  # two images of different digits differ by 30 and more


def test_a_changed_folder_is_packed_anew(finished: Project, tmp_path: Path) -> None:
    copy = finished.copy_to(tmp_path / "copy")
    for name in ("cat", "dog"):
        for number in range(10):
            path = copy.root / "images" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (9, 9), 20 * number).save(path)
    assert copy.git_status() == ""  # Git ignores all but the page that says what to put there
    copy.set_params({"download.dataset": "folder"})
    done = copy.run("dvc", "repro", "tensorize", check=False)
    assert "params.yaml: download.folder.path: images/README.md holds no images" in done.stderr
    assert "Traceback" not in done.stderr
    copy.set_params({"download.folder.path": "images"})
    copy.run("dvc", "repro", "tensorize")
    first = copy.hashes()["data/raw/images.tar"]
    (copy.root / "images" / ".DS_Store").write_bytes(b"?")
    (copy.root / "images" / "cat" / "@eaDir").mkdir()
    (copy.root / "images" / "cat" / "@eaDir" / "0.png").write_bytes(b"?")
    assert "Running stage" not in copy.run("dvc", "repro", "tensorize").stdout

    (copy.root / "images" / "cat" / "0.png").unlink()
    done = copy.run("dvc", "repro", "tensorize")
    assert "Running stage 'download'" in done.stdout
    assert counts(copy) == [13, 2, 4]
    assert copy.hashes()["data/raw/images.tar"] != first

    # Another size changes the tensors alone.
    copy.set_params({"tensorize.folder.image_size": 12})
    done = copy.run("dvc", "repro", "tensorize")
    assert "Running stage 'download'" not in done.stdout
    assert "Running stage 'tensorize'" in done.stdout

    (copy.root / "images" / "dog" / "0.png").write_bytes(b"?")
    done = copy.run("dvc", "repro", "tensorize", check=False)
    assert done.returncode
    assert "tensorize: error: 1 of 19 files in images cannot be used: dog/0.png (not an image" in (
        done.stderr
    )
    assert "Traceback" not in done.stderr
    copy.set_params({"tensorize.folder.unreadable": "skip"})
    done = copy.run("dvc", "repro", "tensorize")
    assert counts(copy) == [12, 2, 4]
    assert "WARNING: 1 of 19 files in images cannot be used: dog/0.png (not an image" in done.stderr
    assert "; they are skipped\n" in done.stderr


def test_where_dvc_fails_first_the_stage_says_more(finished: Project, tmp_path: Path) -> None:
    copy = finished.copy_to(tmp_path / "copy")
    page = " ".join((ROOT / "docs" / "data-sets.md").read_text(encoding="utf-8").split())
    images = copy.root / "images" / "cat"
    images.mkdir()
    Path(os.fsdecode(bytes(images) + b"/caf\xe9.png")).touch()
    for path, by_dvc, by_stage in (
        (
            "images",
            "surrogates not allowed",
            r"images: entry 'cat/caf\xe9.png' has a name that is ",
        ),
        (
            2024,
            "'int' object has no attribute 'decode'",
            "params.yaml: download.folder.path: 2024 is not allowed: input should be a valid "
            "string; put it in quotes",
        ),
    ):
        copy.set_params({"download.dataset": "folder", "download.folder.path": path})
        assert by_dvc in copy.run("dvc", "repro", "download", check=False).stderr
        assert f"`{by_dvc}`" in page
        done = copy.stage("download", check=False)
        assert done.stderr.startswith(f"download: error: {by_stage}")
        assert done.returncode


def test_other_data_sets_do_not_depend_on_them(finished: Project, tmp_path: Path) -> None:
    copy = finished.copy_to(tmp_path / "copy")
    (copy.root / "images" / "cat").mkdir()
    (copy.root / "images" / "cat" / "1.png").write_bytes(b"?")
    assert "Running stage" not in copy.run("dvc", "repro").stdout


def test_an_archive_from_a_url_needs_no_folder_and_mnist_comes_back(
    finished: Project, tmp_path: Path
) -> None:
    copy, served = finished.copy_to(tmp_path / "copy"), tmp_path / "served"
    for name in ("cat", "dog"):
        (served / "pets" / name).mkdir(parents=True)
        for number in range(10):
            Image.new("L", (9, 9), 20 * number).save(served / "pets" / name / f"{number}.png")
    archive = Path(shutil.make_archive(str(served / "pets"), "zip", served / "pets"))
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    settings = {"url": "http://127.0.0.1:9/pets.zip", "sha256": digest}
    copy.set_params({"download.dataset": "folder"})
    copy.set_params({f"download.folder.{key}": value for key, value in settings.items()})
    copy.run("dvc", "repro", "tensorize", env={"DATASET_MIRROR": str(served)})
    assert counts(copy) == [14, 2, 4]

    require(SHARED_MNIST.is_dir(), "a copy of MNIST in ../shared")
    assert (copy.root / "data" / "raw" / "images.tar").exists()
    copy.set_params({"download.dataset": "mnist"})
    copy.set_params({f"download.folder.{key}": "" for key in settings})
    copy.run("dvc", "repro", "tensorize", env={"DATASET_MIRROR": str(SHARED_MNIST)})
    yaml = YAML(typ="safe")
    found, committed = (
        yaml.load((root / "dvc.lock").read_text())["stages"] for root in (copy.root, ROOT)
    )
    for stage in ("download", "tensorize"):
        assert found[stage]["outs"] == committed[stage]["outs"]
