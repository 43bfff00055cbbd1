"""A user's own images: what the folders mean, and that every image arrives as it should."""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from containers import WRITERS, write_folder, write_zip
from image_pipeline.common.errors import DataError, DownloadError, ParamsError
from image_pipeline.common.params import Params, read_params
from image_pipeline.datasets import folder as folder_dataset
from image_pipeline.datasets.folder import PLACEHOLDER, fetch
from image_pipeline.downloading import mirrors, sources
from image_pipeline.downloading.dataset import RawDataset, RawSplit
from image_pipeline.downloading.params import DownloadFolderParams
from image_pipeline.reading import decoding, pixels
from image_pipeline.reading.formats import SUFFIXES
from image_pipeline.tensorizing.params import TensorizeFolderParams
from image_pipeline.tensors.tensor_files import read_split
from project import ROOT, serving
from published import PARAMS, REPORTS, tensorize_into
from reading.image_files import NO_IMAGE, encoded
from refusals import said_by

SIZE = 8


def shade(value: int) -> bytes:
    """Return an image file of one shade."""
    return encoded(Image.new("L", (SIZE, SIZE), value))


def classes(*names: str, images: int = 5) -> dict[str, bytes]:
    """Return some images for each class, each of a shade of its own."""
    return {
        f"{name}/{number}.png": shade(40 * place + number)
        for place, name in enumerate(names)
        for number in range(images)
    }


def under(*tops: str) -> dict[str, bytes]:
    return {f"{top}/{name}": content for top in tops for name, content in classes("a", "b").items()}


def make(
    path: Path | str, url: str = "", sha256: str = "", seed: int = 0, **settings: Any
) -> Params:
    """Return params of the data set, with small grey images."""
    defaults = {"channels": 1, "image_size": SIZE, "fit": "pad", "crop_fraction": 1.0}
    defaults |= {"test_fraction": 0.2, "unreadable": "error"}
    source = DownloadFolderParams(path=str(path), url=url, sha256=sha256)
    pixels = TensorizeFolderParams.model_validate(defaults | settings)
    blocks = {
        "download": PARAMS.download.model_copy(update={"folder": source}),
        "tensorize": PARAMS.tensorize.model_copy(update={"folder": pixels, "seed": seed}),
    }
    return PARAMS.model_copy(update=blocks)


def read(folder: Path, params: Params, workers: int | None = 1) -> RawDataset:
    with pytest.MonkeyPatch.context() as patch:
        if workers:
            patch.setattr(decoding, "available_cores", lambda: workers)
        return folder_dataset.read(folder, params)


def load(
    files: Mapping[str, bytes], tmp_path: Path, workers: int = 1, **settings: Any
) -> RawDataset:
    """Write the files, fetch and read them."""
    write_folder(tmp_path / "images", files)
    params = make(tmp_path / "images", **settings)
    raw = tmp_path / "data" / "raw"
    fetch(raw, None, params)
    found = read(raw, params, workers)
    assert [path.name for path in raw.parent.iterdir()] == ["raw"]
    return found


def refusal(files: Mapping[str, bytes], tmp_path: Path, **settings: Any) -> str:
    return said_by(DataError, load, files, tmp_path, **settings)


def shades(split: RawSplit) -> list[tuple[int, int]]:
    """Return each image's label and shade."""
    images = np.concatenate(list(split.chunks()))
    assert images.dtype == np.uint8
    assert images.shape == (len(split.labels), *split.shape)
    return list(zip(split.labels.tolist(), images[:, 0, 0, 0].tolist(), strict=True))


# What the folders mean.


def test_classes_are_the_folders_in_sorted_order(tmp_path: Path) -> None:
    dataset = load(classes("dog", "ant", "Cat") | {"README.md": b"Pets"}, tmp_path)
    assert dataset.class_names == ("Cat", "ant", "dog")
    train, test = dataset.train, dataset.test
    assert len(train.labels) == 12
    assert np.bincount(test.labels).tolist() == [1, 1, 1]
    expected = {(2, n) for n in range(5)} | {(1, 40 + n) for n in range(5)}
    assert set(shades(train) + shades(test)) == expected | {(0, 80 + n) for n in range(5)}
    assert train.shape == test.shape == (1, SIZE, SIZE)
    assert dataset.skipped == 0


def test_splits_that_have_folders(tmp_path: Path) -> None:
    files = under("pets/train") | {f"pets/val/a/{n}.png": shade(202) for n in range(2)}
    files |= {"pets/test/a/x.png": shade(200), "pets/test/b/deep/er/y.png": shade(201)}
    dataset = load(files, tmp_path)
    assert dataset.class_names == ("a", "b")
    expected = [(0, n) for n in range(5)] + [(1, 40 + n) for n in range(5)]
    assert sorted(shades(dataset.train)) == sorted([*expected, (0, 202), (0, 202)])
    assert shades(dataset.test) == [(0, 200), (1, 201)]


def test_a_test_split_is_stratified_and_depends_on_the_seed(tmp_path: Path) -> None:
    files = classes("a", "b", images=40)
    dataset = load(files, tmp_path)
    train, test = dataset.train, dataset.test
    assert np.bincount(test.labels).tolist() == [8, 8]
    assert sorted(shades(train) + shades(test)) == sorted(
        [(0, n) for n in range(40)] + [(1, 40 + n) for n in range(40)]
    )
    other = read(tmp_path / "data" / "raw", make(tmp_path / "images", seed=1))
    assert shades(other.test) != shades(test)
    half = read(tmp_path / "data" / "raw", make(tmp_path / "images", test_fraction=0.5))
    assert np.bincount(half.test.labels).tolist() == [20, 20]


# Files that cannot be used.

BROKEN = {
    "a/broken.png": shade(1)[:45],
    "a/empty.jpg": b"",
    "b/liar.gif": b"<html>Not found</html>",
    "b/notes.txt": b"Remember the milk",
    "stray.png": shade(9),
}
SKIP = "Remove them, or set tensorize.folder.unreadable to skip"
NONE = "is a readable image; add some, or remove its folder"
REFUSED: dict[str, tuple[dict[str, bytes], str]] = {
    "images without labels": (
        under("seg_train/seg_train", "seg_test/seg_test") | {"seg_pred/seg_pred/1.png": b"?"},
        "{}: seg_pred/ has images, but no class folders; move it elsewhere (`predict` can "
        "score it), or set tensorize.folder.unreadable to skip",
    ),
    "a class of one": (
        classes("a", "b") | {"c/1.png": shade(1)},
        "class c: it has a single training image, and tensorize.folder.test_fraction (0.2) holds "
        "out at least one of each class; add an image, or remove the class",
    ),
    "useless files": (
        classes("a", "b") | BROKEN,
        "5 of 15 files in {} cannot be used: a/broken.png (image file is truncated); a/empty.jpg "
        f"({NO_IMAGE}); b/liar.gif ({NO_IMAGE}); b/notes.txt (its name ends in none of "
        f"{' '.join(SUFFIXES)}); stray.png (it is in no class folder). {SKIP}",
    ),
    "an empty class": (
        classes("a", "b") | {"c/x/.keep": b""},
        f"class c: none of its files {NONE}",
    ),
    "no test images of a class": (
        under("train") | {"test/a/1.png": shade(1), "test/b/.keep": b""},
        f"class b: none of its training or test files {NONE}",
    ),
    "nothing but useless files": (
        {"a/1.png": b"", "b/1.png": b""},
        f"2 of 2 files in {{}} cannot be used: a/1.png ({NO_IMAGE}); b/1.png ({NO_IMAGE}). {SKIP}",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named_with_the_cause(name: str, tmp_path: Path) -> None:
    files, problem = REFUSED[name]
    assert refusal(files, tmp_path) == problem.format(tmp_path / "images")


@pytest.mark.parametrize("workers", [1, 3])
def test_the_first_ten_are_named_and_the_others_counted(workers: int, tmp_path: Path) -> None:
    files = classes("a", "b", images=300) | {f"a/x{n:03}.png": b"?" for n in range(400)}
    message = refusal(files, tmp_path, workers=workers)
    assert message.startswith(f"400 of 1000 files in {tmp_path / 'images'} cannot be used: a/x000.")
    assert "a/x009.png (not an image in one of the formats" in message
    assert "HEIF); and 390 more. Remove them" in message
    assert "a/x010.png" not in message


def test_useless_files_are_skipped_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean = load(classes("a", "b"), tmp_path / "clean")
    dataset = load(classes("a", "b") | BROKEN, tmp_path / "broken", unreadable="skip")
    assert "WARNING: 5 of 15 files in" in capsys.readouterr().err
    assert dataset.class_names == ("a", "b")
    assert dataset.skipped == 5
    assert shades(dataset.train) == shades(clean.train)
    assert shades(dataset.test) == shades(clean.test)
    of_both = under("train", "test") | {f"train/{name}": BROKEN[name] for name in BROKEN}
    of_both |= {"test/a/broken.png": b"", "test/stray.png": shade(1), "LICENSE": b"Free"}
    dataset = load(of_both, tmp_path / "splits", unreadable="skip")
    assert dataset.skipped == 7
    assert (len(dataset.train.labels), len(dataset.test.labels)) == (10, 10)
    files = under("train") | {"test/1.png": shade(200)}  # which is in no class
    dataset = load(files, tmp_path / "unlabelled", unreadable="skip")
    assert dataset.skipped == 1
    assert len(found := shades(dataset.train) + shades(dataset.test)) == 10
    assert max(value for _, value in found) < 200
    files = classes("a", "b") | {"c/1.png": b""}
    message = refusal(files, tmp_path / "all", unreadable="skip")
    assert message == f"class c: none of its files {NONE}"


def test_files_that_are_no_images_and_in_no_class_folder_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = load(classes("a", "b"), tmp_path / "plain")
    capsys.readouterr()
    others = ["LICENSE", "README.md", "pets/labels.csv", *(f"pets/x{n}.docx" for n in range(8))]
    found = load(under("pets") | dict.fromkeys(others, b"Dear reader"), tmp_path)
    assert [line for line in capsys.readouterr().err.splitlines() if "left out" in line] == [
        "tensorize: left out files that are no images and in no class folder "
        f"(11 in {tmp_path / 'images'}): LICENSE; README.md; pets/labels.csv; pets/x0.docx; "
        "pets/x1.docx; pets/x2.docx; pets/x3.docx; pets/x4.docx; pets/x5.docx; pets/x6.docx; and "
        "1 more"
    ]
    assert found.class_names == ("a", "b")
    assert found.skipped == 0
    assert shades(found.train) == shades(plain.train)
    assert shades(found.test) == shades(plain.test)


def test_a_raw_file_that_was_cut(tmp_path: Path) -> None:
    load(classes("a", "b"), tmp_path)
    path = tmp_path / "data" / "raw" / "images.tar"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"images\.tar: not a valid tar file \(unexpected end of d"):
        read(path.parent, make(tmp_path / "images"))


# Images of 16 bits.


def wide(value: int, form: str = "PNG") -> bytes:
    """Return an image file of 16 bits, black at the left and of the value at the right."""
    values = np.zeros((SIZE, SIZE), np.uint16)
    values[:, SIZE // 2 :] = value
    return encoded(Image.fromarray(values), form)


def rightmost(dataset: RawDataset) -> dict[int, list[int]]:
    """Return the last pixel of each class's images, in ascending order."""
    found: dict[int, list[int]] = {}
    for split in (dataset.train, dataset.test):
        images = np.concatenate(list(split.chunks()))
        for label, value in zip(split.labels.tolist(), images[:, 0, 0, -1].tolist(), strict=True):
            found[label] = sorted([*found.get(label, []), value])
    return found


@pytest.mark.parametrize("workers", [1, 3])
def test_the_bits_of_16_bit_images_are_decided_for_all_of_them(
    workers: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decoding, "TASK_IMAGES", 3)
    forms = [(number, form) for number in range(11) for form in ("png", "tiff")]
    files = {f"a/{number}.{form}": wide(400 * number, form) for number, form in forms}
    files |= {f"b/{number}.png": wide(number) for number in range(5)}
    files |= {f"b/{number}8.png": shade(200 + number) for number in range(5)}
    dataset = load(files, tmp_path, workers=workers)
    assert dataset.bits == 12
    scaled = [round(400 * number * 255 / 4095) for number in range(11) for _ in range(2)]
    assert rightmost(dataset) == {0: scaled, 1: [0] * 5 + [200, 201, 202, 203, 204]}
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"tensorize: {tmp_path / 'images'}: the values of all 27 images of 16 bits are "
        "below 4096, so 4095 is taken for white (12 bits)"
    )


def test_one_bright_image_of_16_bits_counts_for_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {f"{name}/{number}.png": wide(4000) for name in "ab" for number in range(5)}
    dataset = load(files | {"a/bright.png": wide(65535)}, tmp_path)
    assert dataset.bits == 16
    assert rightmost(dataset) == {0: [16] * 5 + [255], 1: [16] * 5}
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"tensorize: {tmp_path / 'images'}: WARNING: the values of 10 of 11 images of 16 bits are "
        "below 4096, but others reach 65535, so these are nearly black; if 4095 is "
        "their white, convert them to 8 bits"
    )


def test_without_16_bit_images_nothing_is_decoded_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = Mock(wraps=pixels.decode)
    monkeypatch.setattr(decoding, "decode", decode)
    assert load(classes("a", "b"), tmp_path).bits == 16
    assert decode.call_count == 10
    assert "16 bits" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "bits", "fit", "fraction"),
    [(4095, 12, "pad", 1.0), (65535, 16, "crop", 0.875)],
)
def test_the_tensors_say_the_bits_and_how_other_images_are_fitted(
    value: int, bits: int, fit: str, fraction: float, tmp_path: Path
) -> None:
    files = {f"{name}/{number}.png": wide(value) for name in "ab" for number in range(5)}
    write_folder(tmp_path / "images", files)
    tensors(make(tmp_path / "images", fit=fit, crop_fraction=fraction), tmp_path)
    path = tmp_path / "train.safetensors"
    info = read_split(path).info
    assert (info.bits, info.fit, info.crop_fraction) == (bits, fit, fraction)
    assert (b"bits" in path.read_bytes()) == (bits < 16)  # so that other data sets' files stay


# Where they come from, and who decodes them.


def mixed(count: int) -> dict[str, bytes]:
    """Return images of several formats, sizes and colours, by class."""
    rng = np.random.default_rng(0)
    files = {}
    for number in range(count):
        height, width = (int(side) for side in rng.integers(1, 40, 2))
        colour = number % 3 == 0
        shape = (height, width, 3) if colour else (height, width)
        image = Image.fromarray(rng.integers(0, 256, shape, np.uint8))
        form = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")[number % 6]
        files[f"class {number % 4}/{number:05}.{form.lower()}"] = encoded(image, form)
    return files


def tensors(params: Params, folder: Path, workers: int | None = 1) -> list[str]:
    """Fetch, tensorize, and return the hashes of what was written."""
    fetch(folder / "raw", None, params)
    paths, _ = tensorize_into(folder, read(folder / "raw", params, workers), 0.1)
    written = [*paths, *(folder / name for name in REPORTS), folder / "raw" / "images.tar"]
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in written]


def test_what_the_disk_cannot_hold_is_refused_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files, large = classes("cat", "dog"), {"channels": 3, "image_size": 1000}
    what = "10 images of 3 x 1000 x 1000 pixels take 30 MB, twice that until they are split"
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=60_000_000))
    load(files, tmp_path, **large)
    assert capsys.readouterr().out == f"tensorize: {what}\n"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=59_999_999))
    assert refusal(files, tmp_path, **large) == (
        f"{tmp_path / 'data'}: {what}, and 60 MB are free on this disk; free some space, or lower "
        "tensorize.folder.image_size"
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_the_same_tensors_from_all_containers_and_numbers_of_workers(
    channels: int, tmp_path: Path
) -> None:
    files = mixed(700)
    found = {}
    for kind, workers in (("folder", 1), ("folder", 3), ("zip", 2), ("tar", None), ("tar.gz", 2)):
        WRITERS[kind](tmp_path / kind, files)
        params = make(tmp_path / kind, channels=channels)
        folder = tmp_path / f"of a {kind} by {workers}"
        found[kind, workers] = tensors(params, folder, workers)
    assert len({tuple(hashes) for hashes in found.values()}) == 1, found


def test_a_local_archive_is_checked(tmp_path: Path) -> None:
    write_zip(tmp_path / "pets.zip", classes("a", "b"))
    right = hashlib.sha256((tmp_path / "pets.zip").read_bytes()).hexdigest()
    fetch(tmp_path / "raw", None, make(tmp_path / "pets.zip", sha256=right))
    with pytest.raises(DataError, match=f"its SHA-256 is {right}, not download.folder.sha256"):
        fetch(tmp_path / "other", None, make(tmp_path / "pets.zip", sha256="0" * 64))
    assert not (tmp_path / "other").exists()
    with pytest.raises(ParamsError, match="is a folder, which has none; empty it"):
        fetch(tmp_path / "other", None, make(tmp_path, sha256=right))
    with pytest.raises(DataError, match="not found"):
        fetch(tmp_path / "other", None, make(tmp_path / "none.zip", sha256=right))


# The keys of params.yaml.


def test_the_path_as_it_is_committed_stands_for_no_images(tmp_path: Path) -> None:
    committed = read_params(ROOT / "params.yaml").download.folder
    assert Path(committed.path) == PLACEHOLDER
    assert (ROOT / PLACEHOLDER).is_file()
    assert said_by(ParamsError, fetch, tmp_path / "raw", None, make(committed.path)) == (
        "params.yaml: download.folder.path: images/README.md holds no images; put yours into "
        "images/, one folder per class, and add `-S download.folder.path=images`, or name another "
        "folder, or an archive"
    )
    assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize("sha256", ["", "0" * 64])
def test_a_path_that_is_too_long_is_told(sha256: str, tmp_path: Path) -> None:
    params = make(tmp_path / ("x" * 300) / "y", sha256=sha256)
    message = said_by(ParamsError, fetch, tmp_path / "raw", None, params)
    assert message.startswith("params.yaml: download.folder.path: ")
    assert message.endswith(": File name too long; name a folder of images, or an archive")


def test_an_archive_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(mirrors, "MAX_BYTES", 1000)  # of files without a limit of their own
    server_root = tmp_path / "server"
    server_root.mkdir()
    WRITERS["tar"](server_root / "images.tar", classes("a", "b"))  # called as our own file
    content = (server_root / "images.tar").read_bytes()
    (server_root / f"{'x' * 96}.tar").write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    raw = tmp_path / "raw"
    with serving(server_root) as address:
        source = make("unused", url=f"{address}/images.tar?download=1", sha256=sha256)
        fetch(raw, None, source)
    assert [path.name for path in raw.iterdir()] == ["images.tar"]
    assert len(read(raw, source).train.labels) == 8

    # Without the server: from a mirror, or not at all.
    other = make("unused", url=f"{address}/{'x' * 300}.tar", sha256=sha256)
    for number, found in enumerate((source, other)):
        fetch(tmp_path / str(number), str(server_root), found)
        packed = (tmp_path / str(number) / "images.tar").read_bytes()
        assert packed == (raw / "images.tar").read_bytes()
    with pytest.raises(DownloadError, match=r"could not be downloaded .*\?download=1: no conn"):
        fetch(tmp_path / "never", None, source)
    with pytest.raises(DownloadError, match="its checksum is wrong"):
        fetch(
            tmp_path / "never",
            str(server_root),
            make("unused", url=f"{address}/images.tar", sha256="0" * 64),
        )
    with pytest.raises(ParamsError, match=r"sha256: missing; an archive from a url needs it"):
        fetch(tmp_path / "never", None, make("unused", url=address))
    monkeypatch.setattr(sources, "MAX_BYTES", 1000)
    monkeypatch.setattr(sources, "MAX_ENTRIES", 2)
    with pytest.raises(DownloadError, match="longer than the expected 3048 bytes"):
        fetch(tmp_path / "never", str(server_root), source)
    assert not list((tmp_path / "never").rglob("*.*"))
