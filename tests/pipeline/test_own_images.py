"""A folder of custom images, through the whole pipeline, and back.

They are the digits that the pipeline knows, so that it is known what must arrive.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from image_pipeline.tensors.tensor_files import read_split
from project import ROOT, Project

SPLITS = ("train", "validation", "test")
# Two of them differ only in case.
NAMES = ("zero", "one", "two", "Two", "four", "five", "six", "seven", "eight", "nine")
CLASSES = tuple(sorted(NAMES))
KINDS = 6  # of files, in turn
EXACT = (0, 4)  # those that arrive to the bit
LEARNING = ("epochs=10", "batch_size=32", "loss.cross_entropy.label_smoothing=0")


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


def write_images(project: Project, folder: Path, split: str) -> tuple[np.ndarray, ...]:
    """Write the digits of a split as files; return the pixels, labels and kinds, as read in order.

    Files come sorted by class, then by number.
    """
    tensors = load_file(project.root / "data" / "tensors" / f"{split}.safetensors")
    images = tensors["images"][:, 0]
    labels = np.array([CLASSES.index(NAMES[digit]) for digit in tensors["labels"]])
    kinds = np.arange(len(images)) % KINDS
    for name in NAMES:
        (folder / split / name).mkdir(parents=True)
    for number, (pixels, label, kind) in enumerate(zip(images, labels, kinds, strict=True)):
        write_image(folder / split / CLASSES[label] / f"{number:04}", pixels, int(kind))
    order = np.argsort(labels, stable=True)
    return images[order], labels[order], kinds[order]


def test_an_experiment_on_them(finished: Project, tmp_path: Path) -> None:
    before, copy = finished.hashes(), finished.copy_to(tmp_path / "copy")
    command = "dvc exp run -S download.dataset=folder -S download.folder.path=images"
    assert f"\n{command}\n" in (ROOT / "README.md").read_text()
    given = {
        split: write_images(finished, copy.root / "images", split) for split in ("train", "test")
    }
    learning = [word for setting in LEARNING for word in ("-S", f"train.{setting}")]
    done = copy.run(*command.split(), *learning, "-S", "tensorize.folder.fit=crop")
    assert "WARNING" not in done.stderr
    assert "download: images: 'test/Two' and 'test/two' differ only in case" in done.stdout

    paths = [copy.root / "data" / "tensors" / f"{split}.safetensors" for split in SPLITS]
    train, validation, test = (read_split(path) for path in paths)
    assert train.info.class_names == validation.info.class_names == test.info.class_names == CLASSES
    images, labels, kinds = given["test"]
    found = test.images.numpy()[:, 0]
    assert np.array_equal(test.labels.numpy(), labels)
    exact = np.isin(kinds, EXACT)
    assert np.array_equal(found[exact], images[exact])
    difference = np.abs(found.astype(int) - images).mean(axis=(1, 2))
    assert difference.max() < 12  # two images of different digits differ by 30 and more

    # The training images are those that were given, each with its label, less those for validation.
    images, labels, kinds = given["train"]
    assert len(validation.labels) == pytest.approx(len(labels) / 10, abs=5)
    arrived = [
        (image.numpy().tobytes(), int(label))
        for split in (train, validation)
        for image, label in zip(split.images, split.labels, strict=True)
    ]
    exact = np.isin(kinds, EXACT)
    pairs = zip(images[exact], labels[exact], strict=True)
    assert {(image.tobytes(), label) for image, label in pairs} <= set(arrived)
    assert sorted(label for _, label in arrived) == labels.tolist()

    metrics = json.loads((copy.root / "metrics" / "test.json").read_text())
    assert metrics["images"] == len(test.labels)
    assert metrics["accuracy"] > 0.9
    predictions = (copy.root / "plots" / "predictions.csv").read_text()
    assert all(f",{name}," in predictions for name in CLASSES)

    # Nothing of each class is among the metrics, so that a comparison fits on a screen.
    diff = json.loads(copy.run("dvc", "metrics", "diff", "--json").stdout)
    rows = [(path, key) for path, changed in diff.items() for key in changed]
    assert {("metrics/test.json", "errors"), ("metrics/train.json", "train.loss")} <= {*rows}
    assert len(rows) <= 12
    table = copy.run("dvc", "metrics", "diff", "--md").stdout
    assert table.count("\n| metrics/") == len(rows)

    # And back again, without running anything.
    for split in given:
        shutil.rmtree(copy.root / "images" / split)
    copy.run("git", "checkout", ".")
    again = copy.run("dvc", "repro")
    assert "Running stage" not in again.stdout
    assert copy.hashes() == before
    assert copy.git_status() == ""


def write_pets(folder: Path) -> None:
    """Write ten images of cats, and ten of dogs."""
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(10):
            Image.new("L", (9, 9), 20 * number).save(folder / name / f"{number}.png")


def counts(project: Project) -> list[int]:
    """Return how many images there are in the three splits."""
    folder = project.root / "data" / "tensors"
    return [len(load_file(folder / f"{split}.safetensors")["labels"]) for split in SPLITS]


def test_a_changed_folder_is_packed_anew(finished: Project, tmp_path: Path) -> None:
    copy = finished.copy_to(tmp_path / "copy")
    images = copy.root / "images"
    write_pets(images)
    assert "Running stage" not in copy.run("dvc", "repro").stdout  # other data sets don't read them
    assert copy.git_status() == ""  # Git ignores all but the page that says what to put there
    copy.set_params({"download.dataset": "folder"})
    done = copy.run("dvc", "repro", "tensorize", check=False)
    assert "params.yaml: download.folder.path: images/README.md holds no images" in done.stderr
    assert "Traceback" not in done.stderr
    copy.set_params({"download.folder.path": "images"})
    copy.run("dvc", "repro", "tensorize")
    first = copy.hashes()["data/raw/images.tar"]
    (images / ".DS_Store").write_bytes(b"?")
    (images / "cat" / "@eaDir").mkdir()
    (images / "cat" / "@eaDir" / "0.png").write_bytes(b"?")
    assert "Running stage" not in copy.run("dvc", "repro", "tensorize").stdout

    (images / "cat" / "0.png").unlink()
    done = copy.run("dvc", "repro", "tensorize")
    assert "Running stage 'download'" in done.stdout
    assert counts(copy) == [13, 2, 4]
    assert copy.hashes()["data/raw/images.tar"] != first

    # Another size changes the tensors alone.
    copy.set_params({"tensorize.folder.image_size": 12})
    done = copy.run("dvc", "repro", "tensorize")
    assert "Running stage 'download'" not in done.stdout
    assert "Running stage 'tensorize'" in done.stdout

    (images / "dog" / "0.png").write_bytes(b"?")
    said = "1 of 19 files in images cannot be used: dog/0.png (not an image"
    done = copy.run("dvc", "repro", "tensorize", check=False)
    assert done.returncode
    assert f"tensorize: error: {said}" in done.stderr
    assert "Traceback" not in done.stderr
    copy.set_params({"tensorize.folder.unreadable": "skip"})
    done = copy.run("dvc", "repro", "tensorize")
    assert counts(copy) == [12, 2, 4]
    assert f"WARNING: {said}" in done.stderr
    assert "; they are skipped\n" in done.stderr


def test_where_dvc_fails_first_the_stage_says_more(finished: Project, tmp_path: Path) -> None:
    copy = finished.copy_to(tmp_path / "copy")
    page = " ".join((ROOT / "docs" / "data-sets.md").read_text(encoding="utf-8").split())
    Path(os.fsdecode(bytes(copy.root / "images") + b"/caf\xe9.png")).touch()
    for path, by_dvc, by_stage in (
        ("images", "surrogates not allowed", r"images: entry 'caf\xe9.png' has a name that is "),
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


def test_an_archive_from_a_url_needs_no_folder(finished: Project, tmp_path: Path) -> None:
    copy, served = finished.copy_to(tmp_path / "copy"), tmp_path / "served"
    write_pets(served / "pets")
    archive = Path(shutil.make_archive(str(served / "pets"), "zip", served / "pets"))
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    copy.set_params(
        {
            "download.dataset": "folder",
            "download.folder.url": "http://127.0.0.1:9/pets.zip",
            "download.folder.sha256": digest,
        }
    )
    copy.run("dvc", "repro", "tensorize", env={"DATASET_MIRROR": str(served)})
    assert counts(copy) == [14, 2, 4]
