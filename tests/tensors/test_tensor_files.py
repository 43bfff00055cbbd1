"""Tensorized splits that are not what they claim to be."""

import json
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save

from image_pipeline.common.schema import Bits, Fit
from image_pipeline.tensors.tensor_files import (
    METADATA_KEY,
    DatasetInfo,
    open_split_writer,
    read_labels,
    read_sample,
    read_split,
)
from refusals import damaged, quick, refusal, valid_or_refused

REMEDY = "; run `dvc repro --force tensorize` to recreate it"
NAMES = ("cat", "dog", "fox")
INFO = DatasetInfo("toy", NAMES, (0.5,), (0.25,))
DESCRIPTION = {"dataset": "toy", "class_names": NAMES, "mean": [0.5], "std": [0.25], "fit": "pad"}
IMAGES = np.arange(4 * 6, dtype=np.uint8).reshape(4, 1, 2, 3)
LABELS = np.array([0, 2, 1, 2], np.int64)


def split(images: np.ndarray = IMAGES, labels: np.ndarray = LABELS, **description: object) -> bytes:
    values = json.dumps(DESCRIPTION | description)
    return save({"images": images, "labels": labels}, {METADATA_KEY: values})


def split_of(description: str) -> bytes:
    """Return a split with any text for its description."""
    return save({"images": IMAGES, "labels": LABELS}, {METADATA_KEY: description})


def raw(header: object, data: bytes = b"") -> bytes:
    """Return a safetensors file of any header: JSON values, or the header's bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tensors") / "split.safetensors"


def read_some(path: Path) -> object:
    return read_sample(path, [0, 3])


def test_what_is_written_is_read(file: Path) -> None:
    with open_split_writer(file, 4, (1, 2, 3), "toy", NAMES) as writer:
        writer.append(IMAGES[:3], LABELS[:3].astype(np.uint8))
        writer.append(IMAGES[3:], LABELS[3:])
        writer.finish(INFO)
    found = read_split(file)
    assert np.array_equal(found.images.numpy(), IMAGES)
    assert found.labels.tolist() == [0, 2, 1, 2]
    assert found.info == INFO
    assert found.shape == (1, 2, 3)
    sample = read_sample(file, [3, 0])
    assert np.array_equal(sample.images, IMAGES[[3, 0]])
    assert sample.labels.tolist() == [2, 0]
    assert read_sample(file, []).images.shape == (0, 1, 2, 3)
    assert read_labels(file).tolist() == [0, 2, 1, 2]


@pytest.mark.parametrize("fault", ["too few", "too many", "another shape"])
def test_a_split_of_another_size_is_not_written(fault: str, tmp_path: Path) -> None:
    images = IMAGES[:, :, :1] if fault == "another shape" else IMAGES
    count = {"too few": 5, "too many": 3}.get(fault, 4)
    path = tmp_path / "split.safetensors"
    with (  # noqa: PT012 - any of them may find the fault
        pytest.raises(ValueError, match=r"written|labels"),
        open_split_writer(path, count, (1, 2, 3), "toy", NAMES) as writer,
    ):
        writer.append(images, LABELS)
        writer.finish(INFO)
    assert not list(tmp_path.iterdir())


LETTERS = st.characters(categories=["L", "N"])


@given(
    count=st.integers(1, 40),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)),
    names=st.lists(st.text(LETTERS, max_size=9), min_size=2, unique=True),
    mean=st.floats(0, 1),
    fit=st.sampled_from(["pad", "crop"]),
    bits=st.sampled_from(get_args(Bits)),
    fraction=st.sampled_from([1.0, 0.875, 1 / 3]),
)
@quick
def test_any_split_is_read_back_by_safetensors_itself(
    count: int,
    shape: tuple[int, int, int],
    names: list[str],
    mean: float,
    fit: Fit,
    bits: Bits,
    fraction: float,
    file: Path,
) -> None:
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, *shape), np.uint8)
    labels = rng.integers(0, len(names), count)
    statistics = (round(mean, 8),) * shape[0], (round(mean, 8) or 1.0,) * shape[0]
    description = DatasetInfo("toy", tuple(names), *statistics, fit, bits, fraction)
    with open_split_writer(file, count, shape, "toy", tuple(names), bits, fraction) as writer:
        writer.append(images, labels)
        writer.finish(description)
    found = load_file(file)
    assert found.keys() == {"images", "labels"}
    assert np.array_equal(found["images"], images)
    assert np.array_equal(found["labels"], labels)
    assert read_split(file).info == description


GOOD = split()
U8 = {"dtype": "U8", "shape": [4, 1, 2, 3], "data_offsets": [0, 24]}
I64 = {"dtype": "I64", "shape": [4], "data_offsets": [24, 56]}
DATA = IMAGES.tobytes() + LABELS.tobytes()
# The library itself refuses these, and many more that `test_any_header` comes upon.
TORN = "not a valid safetensors file ("
UNUSABLE = "its header or a value in it is invalid ("
BAD: dict[str, tuple[bytes, str]] = {
    "torn": (GOOD[:-1], TORN),
    "other tensors": (save({"a": IMAGES}), "it holds the tensors ['a'], not images and labels"),
    "floats": (split(IMAGES.astype(np.float32)), "`images` is F32 [4, 1, 2, 3], not U8 of rank 4"),
    "one image": (split(IMAGES[0]), "`images` is U8 [1, 2, 3], not U8 of rank 4"),
    "a label too few": (split(labels=LABELS[:3]), "(4, 1, 2, 3) images do not match 3 labels"),
    "nothing": (split(IMAGES[:0], LABELS[:0]), "(0, 1, 2, 3) images do not match 0 labels"),
    "no pixels": (split(IMAGES[:, :, :0]), "(4, 1, 0, 3) images do not match 4 labels"),
    "two channels": (split(IMAGES.reshape(4, 2, 1, 3)), "2 channels but 1 statistics"),
    "no metadata": (save({"images": IMAGES, "labels": LABELS}), f"{UNUSABLE}KeyError"),
    "metadata that are no JSON": (split_of("{"), f"{UNUSABLE}JSONDecodeError"),
    "metadata of lists": (split_of("[]"), f"{UNUSABLE}TypeError"),
    "deep metadata": (split_of("[" * 100_000), f"{UNUSABLE}RecursionError"),
    "one class": (split(class_names=["cat"]), "fewer than two classes"),
    "another fit": (split(fit=["pad"]), "neither pad nor crop"),
    "a class twice": (split(class_names=["cat", "dog", "cat"]), "two classes with the same name"),
    "half a character": (split(class_names=["a", "b", "\ud800"]), "name is not printable text"),
    "no deviation": (split(std=[0.0]), "a standard deviation is not above 0"),
    "a NaN": (split(mean=[float("nan")]), "a mean is not finite"),
    "an infinite deviation": (split(std=[float("inf")]), "a standard deviation is not above 0"),
    "an enormous mean": (split(mean=[10**400]), f"{UNUSABLE}OverflowError"),
    "a deviation too many": (split(std=[1, 1]), "the numbers of means and standard dev"),
}
BAD_LABELS = {
    "a negative label": (split(labels=LABELS - 1), "labels are from -1 to 1, allowed are 0 to 2"),
    "a label too high": (split(labels=LABELS + 1), "labels are from 1 to 3, allowed are 0 to 2"),
    "an enormous label": (split(labels=LABELS << 60), "allowed are 0 to 2"),
}


@pytest.mark.parametrize("name", BAD | BAD_LABELS)
@pytest.mark.parametrize("read", [read_split, read_some, read_labels])
def test_files_that_are_something_else(
    name: str, read: Callable[[Path], object], file: Path
) -> None:
    content, cause = (BAD | BAD_LABELS)[name]
    file.write_bytes(content)
    message = refusal(file, read)
    assert cause in message
    assert message.endswith(REMEDY)


@pytest.mark.parametrize("read", [read_split, read_some, read_labels])
def test_what_is_not_a_file(read: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "split.safetensors"
    assert refusal(path, read) == "not found; run `dvc repro tensorize`"
    path.symlink_to(tmp_path / "nowhere")
    assert refusal(path, read) == "not found; run `dvc repro tensorize`"
    path.unlink()
    path.mkdir()
    assert refusal(path, read) == f"cannot be read (it is a folder){REMEDY}"


def test_images_that_are_not_there(file: Path) -> None:
    file.write_bytes(GOOD)
    for index in (4, 1 << 40, -1):
        message = refusal(file, partial(read_sample, indices=[index]))
        assert message.endswith(REMEDY)


def every_reader_takes_or_refuses(path: Path) -> None:
    for read in (read_split, read_some, read_labels):
        valid_or_refused(path, partial(read, path))


ANY = st.binary(max_size=100)


@settings(quick, max_examples=400)
@given(content=ANY | ANY.map(raw) | damaged(GOOD))
def test_any_bytes(content: bytes, file: Path) -> None:
    file.write_bytes(content)
    every_reader_takes_or_refuses(file)


sizes = st.integers(-2, 30) | st.integers(0, 1 << 64)
kinds = ["U8", "I64", "U64", "F32", "BF16", "BOOL", "F8_E4M3", "C64", "F4", "F6_E2M3"]
tensors = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(kinds),
        "shape": st.lists(sizes, max_size=5),
        "data_offsets": st.tuples(sizes, sizes),
    }
)
names = st.sampled_from(["images", "labels", "other"])
headers = st.dictionaries(names, tensors | st.just(U8) | st.just(I64), max_size=3)


@quick
@given(header=headers, data=st.sampled_from([b"", DATA, DATA[:24]]))
def test_any_header(header: dict[str, object], data: bytes, file: Path) -> None:
    metadata = {"__metadata__": {METADATA_KEY: json.dumps(DESCRIPTION)}}
    file.write_bytes(raw(metadata | header, data))
    every_reader_takes_or_refuses(file)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@quick
@given(key=st.sampled_from(sorted([*DESCRIPTION, "crop_fraction"])), value=values)
def test_any_description(key: str, value: Any, file: Path) -> None:
    file.write_bytes(split(**{key: value}))
    every_reader_takes_or_refuses(file)
