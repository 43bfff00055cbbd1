"""Model files and checkpoints that are not what they claim to be."""

import dataclasses
import hashlib
import io
import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from image_pipeline.common.errors import DataError, PipelineError
from image_pipeline.common.params import read_params
from image_pipeline.modeling import networks
from image_pipeline.modeling.model_card import ModelCard
from image_pipeline.modeling.model_file import read_model, write_model
from image_pipeline.tensors.tensor_files import METADATA_KEY, Description, Split
from image_pipeline.training.checkpoint import CheckpointFile
from project import ROOT

quick = settings(derandomize=True, deadline=None, max_examples=150, database=None)
REMEDY = "; run `dvc repro --force train` to make it anew"
OPTIONS = {"hidden_sizes": [4, 5]}
CARD = ModelCard(
    network="mlp",
    source=networks.source_hash("mlp"),
    input_shape=(1, 2, 3),
    data=Description("toy", ("cat", "dog", "fox"), (0.5,), (0.25,)),
    augmentation=read_params(ROOT / "params.yaml").train.augmentation,
    options=OPTIONS,
    first_layer="hidden.0.weight",
)
VALUES: dict[str, Any] = json.loads(CARD.to_metadata()[METADATA_KEY])
MODEL = networks.build("mlp", OPTIONS, (1, 2, 3), 3)
WEIGHTS: dict[str, Tensor] = MODEL.state_dict()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("model") / "model.safetensors"


def model(weights: dict[str, Tensor] | None = None, **card: Any) -> bytes:
    if "hidden_sizes" in card:
        card["options"] = {"hidden_sizes": card.pop("hidden_sizes")}
    values = {METADATA_KEY: json.dumps(VALUES | card)}
    return save(WEIGHTS | (weights or {}), values)


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_model(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    assert len(message) < 500 + len(str(path))
    return message.removeprefix(f"{path}: ")


def test_what_is_written_is_read(file: Path) -> None:
    write_model(file, MODEL, CARD)
    found, card = read_model(file)
    assert card == CARD
    assert not found.training
    assert all(torch.equal(tensor, WEIGHTS[name]) for name, tensor in found.state_dict().items())


GOOD = model()
NAN, INFINITE = torch.full((4, 6), torch.nan), torch.full((4, 6), -torch.inf)
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it is no valid safetensors file ("),
    "torn": (GOOD[:-1], "it is no valid safetensors file ("),
    "a split": (save({"images": torch.zeros(1)}), "its card is unreadable (KeyError("),
    "no card": (save(WEIGHTS), "its card is unreadable (KeyError("),
    "no JSON": (save(WEIGHTS, {METADATA_KEY: "?"}), "its card is unreadable (JSONDecodeError"),
    "a list": (save(WEIGHTS, {METADATA_KEY: "[1]"}), "its card is unreadable (TypeError"),
    "deep JSON": (save(WEIGHTS, {METADATA_KEY: "[" * 99_999}), "unreadable (RecursionError"),
    "another shape": (model(input_shape=[1, 2, 4]), "are not those of its card"),
    "two sizes": (model(input_shape=[1, 6]), "its card is unreadable (ValueError"),
    "no height": (model(input_shape=[1, 0, 6]), "its sizes are out of bounds"),
    "a negative height": (model(input_shape=[1, -2, -3]), "its sizes are out of bounds"),
    "infinite height": (model(input_shape=[1, 2, float("inf")]), "unreadable (OverflowError"),
    "channels": (model(input_shape=[6, 1, 1]), "6 channels but 1 statistics"),
    "enormous layers": (model(hidden_sizes=[1 << 40, 1 << 40]), "allocate memory"),
    "layers of gigabytes": (model(hidden_sizes=[1 << 15] * 16), "are not those of its card"),
    "a million layers": (model(hidden_sizes=[1] * 1_000_000), "its options are too many"),
    "no layers": (model(hidden_sizes=[]), "are not those of its card"),
    "a negative layer": (model(hidden_sizes=[-4, -5]), "its network cannot be rebuilt ("),
    "words for layers": (model(hidden_sizes="four"), "cannot be rebuilt (train.model.mlp.hidden"),
    "a layer too many": (model(hidden_sizes=[4, 5, 5]), "are not those of its card"),
    "an unknown option": (model(options={"depth": 3}), "train.model.mlp.depth: unknown option"),
    "options that are none": (model(options=3), "its card is unreadable (TypeError"),
    "a tensor too many": (model({"extra": torch.zeros(1)}), "are not those of its card"),
    "a class too many": (
        model(data=VALUES["data"] | {"class_names": ["a", "b", "c", "d"]}),
        "are not those of its card",
    ),
    "a network's path": (model(network="../mlp"), "its card is unreadable (ValueError"),
    "a first layer that is none": (model(first_layer=3), "its card is unreadable (TypeError"),
    "a class twice": (model(data=VALUES["data"] | {"class_names": ["a"] * 3}), "of one name"),
    "no data": (model(data=None), "its card is unreadable (TypeError"),
    "no augmentation": (model(augmentation={}), "its card is unreadable ("),
    "hostile augmentation": (
        model(augmentation=VALUES["augmentation"] | {"group_size": -1}),
        "its card is unreadable (",
    ),
    "a NaN weight": (
        model({"hidden.0.weight": NAN}),
        "`hidden.0.weight` is not float32 and finite throughout",
    ),
    "an infinite weight": (
        model({"hidden.0.weight": INFINITE}),
        "`hidden.0.weight` is not float32 and finite throughout",
    ),
    "doubles": (
        model({"output.bias": torch.zeros(3, dtype=torch.float64)}),
        "`output.bias` is not float32 and finite throughout",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_are_something_else(name: str, file: Path) -> None:
    content, cause = BAD[name]
    file.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message = refusal(file)
    assert cause in message
    assert message.endswith(REMEDY)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 256 << 10  # KiB; the card's weights would take gigabytes


@pytest.mark.parametrize("card", [{"source": "0" * 64}, {"network": "rnn"}])
def test_a_network_that_has_changed_since(card: dict[str, Any], file: Path) -> None:
    file.write_bytes(model(**card))
    name = card.get("network", "mlp")
    assert refusal(file) == (
        f"the network it was trained with, `{name}`, has changed since or is gone "
        f"(src/image_pipeline/models/{name}.py); run `dvc repro` to train anew"
    )


def test_the_same_model_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        write_model(tmp_path / name, MODEL, CARD)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    with safe_open(tmp_path / "one", framework="pt") as stored:
        assert list(stored.metadata()) == [METADATA_KEY]  # a second key would be in random order


def test_any_order_of_axes_and_buffers_come_back(tmp_path: Path) -> None:
    """The residual network's weights lie channels last, and its batch norm has buffers."""
    network = networks.build("resnet", {}, (3, 16, 16), 3)
    with torch.no_grad():
        for number, tensor in enumerate(network.state_dict().values()):
            tensor.fill_(number)
    card = dataclasses.replace(
        CARD,
        network="resnet",
        source=networks.source_hash("resnet"),
        input_shape=(3, 16, 16),
        options={},
        data=Description("toy", ("cat", "dog", "fox"), (0.5,) * 3, (0.25,) * 3),
    )
    write_model(tmp_path / "m", network, card)
    found, _ = read_model(tmp_path / "m")
    for name, tensor in network.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor)
        assert found.state_dict()[name].stride() == tensor.stride()


def test_what_is_not_a_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    assert refusal(path) == "not found; run `dvc repro train`"
    path.mkdir()
    assert refusal(path) == f"cannot be read (it is a folder){REMEDY}"


def test_a_split_that_does_not_fit_the_model(tmp_path: Path) -> None:
    path = tmp_path / "test.safetensors"
    images, labels = torch.zeros(1, 1, 3, 2, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(
        DataError, match=r"images of shape \(1, 3, 2\), the model takes \(1, 2, 3\)"
    ):
        CARD.check_fits(path, Split(images, labels, CARD.data))
    other = Description("toy", ("cat", "fox", "dog"), (0.5,), (0.25,))
    with pytest.raises(DataError, match="other classes than the model's; run `dvc repro`"):
        CARD.check_fits(path, Split(images.reshape(1, 1, 2, 3), labels, other))


def valid_or_refused(path: Path, read: Callable[[], object]) -> None:
    try:
        read()
    except PipelineError as error:
        message = str(error)
    else:
        return
    assert message.startswith(f"{path}: ")
    assert message.isprintable()


@quick
@given(start=st.integers(0, len(GOOD)), length=st.integers(0, 8), put=st.binary(max_size=8))
def test_any_damage(start: int, length: int, put: bytes, file: Path) -> None:
    file.write_bytes(GOOD[:start] + put + GOOD[start + length :])
    valid_or_refused(file, lambda: read_model(file))


@quick
@given(content=st.binary(max_size=100))
def test_any_bytes(content: bytes, file: Path) -> None:
    file.write_bytes(content)
    valid_or_refused(file, lambda: read_model(file))


numbers = st.integers() | st.floats() | st.sampled_from([0, 1, 2, 3, 1 << 62, 10**400])
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@quick
@given(
    key=st.sampled_from([*VALUES, *(f"data.{key}" for key in VALUES["data"])]),
    value=values | st.lists(numbers, max_size=4),
)
def test_any_card(key: str, value: object) -> None:
    path = Path("model.safetensors")
    card = json.loads(json.dumps(VALUES))
    block = card["data"] if "." in key else card
    block[key.removeprefix("data.")] = value
    metadata = {METADATA_KEY: json.dumps(card)}
    valid_or_refused(path, lambda: ModelCard.from_metadata(path, metadata))


@quick
@given(metadata=st.none() | st.dictionaries(st.just(METADATA_KEY) | st.text(), st.text()))
def test_any_metadata(metadata: dict[str, str] | None) -> None:
    path = Path("model.safetensors")
    with pytest.raises(DataError, match="its card is unreadable"):
        ModelCard.from_metadata(path, metadata)


# Checkpoints: a bad one is ignored, since training can do without.

STATE = {"model": {"weight": torch.arange(4.0)}, "history": [{"epoch": 1}], "schedule": None}


def checkpoint(folder: Path) -> CheckpointFile:
    return CheckpointFile(folder, "0123456789abcdef" * 4)


def put(kept: CheckpointFile, content: bytes) -> None:
    """Write content with the digest that a checkpoint has."""
    kept.path.parent.mkdir(parents=True, exist_ok=True)
    kept.path.write_bytes(hashlib.sha256(content).digest() + content)


def test_a_checkpoint_comes_back_whole(tmp_path: Path) -> None:
    kept = checkpoint(tmp_path)
    assert kept.load() is None
    kept.save(STATE)
    found = kept.load()
    assert found is not None
    assert torch.equal(found["model"]["weight"], torch.arange(4.0))
    assert found["history"] == [{"epoch": 1}]
    kept.remove()
    assert kept.load() is None


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


class Foreign:
    """Something that only an unsafe reader would build."""


FOREIGN = {
    "nothing": b"",
    "noise": b"noise" * 100,
    "a list": saved([1]),
    "no key": saved({"state": {}}),
    "a state that is none": saved({"key": "0123456789abcdef" * 4, "state": 3}),
    "an object": saved({"key": "0123456789abcdef" * 4, "state": {"a": Foreign()}}),
    "an array": saved({"key": "0123456789abcdef" * 4, "state": {"a": np.zeros(2)}}),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_checkpoint_is_ignored(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = checkpoint(tmp_path)
    put(kept, FOREIGN[name])
    assert kept.load() is None
    told = capsys.readouterr().err
    assert told.startswith(f"WARNING: {kept.path}: this checkpoint is no checkpoint of this ")
    assert told.count("\n") == 1


def test_a_checkpoint_of_another_run_is_ignored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = CheckpointFile(tmp_path, "0123456789abcdef" * 2 + "f" * 32)  # of the same file name
    other.save(STATE)
    assert checkpoint(tmp_path).load() is None
    assert "this checkpoint is of another run" in capsys.readouterr().err


CHECKPOINT_SIZE = 1500


@quick
@given(start=st.integers(0, CHECKPOINT_SIZE), length=st.integers(0, 9), new=st.binary(max_size=9))
def test_any_damage_to_a_checkpoint_is_seen(
    start: int, length: int, new: bytes, file: Path
) -> None:
    kept = checkpoint(file.parent / "checkpoints")
    kept.save(STATE)
    content = kept.path.read_bytes()
    changed = content[:start] + new + content[start + length :]
    kept.path.write_bytes(changed)
    assert (kept.load() is None) == (changed != content)


@quick
@given(content=st.binary(max_size=200))
def test_any_content_of_a_checkpoint_is_ignored(content: bytes, file: Path) -> None:
    kept = checkpoint(file.parent / "checkpoints")
    put(kept, content)
    assert kept.load() is None
