"""Model files: a round trip, and invalid files are refused with the reason."""

import json
import math
import resource
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from image_pipeline import models
from image_pipeline.common.errors import DataError
from image_pipeline.common.params import read_params
from image_pipeline.modeling import networks
from image_pipeline.modeling.model_card import ModelCard, OodThresholds
from image_pipeline.modeling.model_file import read_model, read_training_statistics, write_model
from image_pipeline.modeling.ood import TrainingStatistics
from image_pipeline.tensors.tensor_files import METADATA_KEY, DatasetInfo, Split
from project import ROOT
from refusals import damaged, quick, refusal, said_by, valid_or_refused

REMEDY = "; run `dvc repro --force train` to recreate it"
NAMES = ("cat", "dog", "fox")
OPTIONS = {"hidden_sizes": [4, 5]}
CARD = ModelCard(
    network="mlp",
    source=networks.source_hash("mlp"),
    input_shape=(1, 2, 3),
    data=DatasetInfo("toy", NAMES, (0.5,), (0.25,)),
    augmentation=read_params(ROOT / "params.yaml").train.augmentation.model_dump(),
    options=OPTIONS,
    first_layer="hidden.0.weight",
    ood=OodThresholds(1.5, 2.5),
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


def test_round_trip(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for path in (one, other):
        write_model(path, MODEL, CARD)
    found, card = read_model(one)
    assert card == CARD
    assert not found.training
    assert_same_weights(found, MODEL)
    assert one.read_bytes() == other.read_bytes()
    with safe_open(one, framework="pt") as stored:
        assert list(stored.metadata()) == [METADATA_KEY]  # a second key would be in random order


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
        assert tensor.stride() == other.state_dict()[name].stride()


def test_training_statistics_round_trip(tmp_path: Path) -> None:
    arrays = [np.arange(6, dtype=np.uint8).reshape(1, 2, 3) * times for times in (1, 40)]
    path = tmp_path / "model.safetensors"
    write_model(path, MODEL, CARD, TrainingStatistics(*arrays))
    assert read_model(path)[1] == CARD
    found = read_training_statistics(path)
    assert np.array_equal(found.mean, arrays[0])
    assert np.array_equal(found.deviation, arrays[1])
    write_model(path, MODEL, CARD)
    assert "training_statistics/mean" in refusal(path, read_training_statistics)
    write_model(path, MODEL, CARD, TrainingStatistics(*(array[..., 1:] for array in arrays)))
    assert refusal(path, read_training_statistics).startswith(
        "`training_statistics/mean` has the wrong shape; "
    )


GOOD = model()
NAN = torch.full((4, 6), torch.nan)
BAD: dict[str, tuple[bytes, str]] = {
    "torn": (GOOD[:-1], "not a valid safetensors file ("),
    "no card": (save(WEIGHTS), "invalid model metadata (KeyError("),
    "deep JSON": (save(WEIGHTS, {METADATA_KEY: "[" * 99_999}), "metadata (RecursionError"),
    "another shape": (model(input_shape=[1, 2, 4]), "do not match its metadata"),
    "two sizes": (model(input_shape=[1, 6]), "invalid model metadata (ValueError"),
    "a negative height": (model(input_shape=[1, -2, -3]), "image size out of bounds"),
    "channels": (model(input_shape=[6, 1, 1]), "6 channels, but 1 means"),
    "enormous layers": (model(hidden_sizes=[1 << 40, 1 << 40]), "allocate memory"),
    "a million layers": (model(hidden_sizes=[1] * 1_000_000), "too many options"),
    "an unknown option": (model(options={"depth": 3}), "train.model.mlp.depth: unknown option"),
    "a tensor too many": (model({"extra": torch.zeros(1)}), "do not match its metadata"),
    "a network's path": (model(network="../mlp"), "invalid model metadata (ValueError"),
    "a class twice": (model(data=VALUES["data"] | {"class_names": ["a"] * 3}), "the same name"),
    "a model without thresholds": (
        save(WEIGHTS, {METADATA_KEY: json.dumps({k: v for k, v in VALUES.items() if k != "ood"})}),
        "invalid model metadata (KeyError('ood'))",
    ),
    "an infinite threshold": (
        model(ood={"logit": 1.5, "distance": math.inf}),
        "its out-of-distribution thresholds are not finite numbers",
    ),
    "one threshold of two": (model(ood={"logit": 1.5}), "invalid model metadata (TypeError("),
    "other bits": (model(data=VALUES["data"] | {"bits": 11}), "`bits` is none of 8, 10, 12, 14"),
    "another fit": (model(data=VALUES["data"] | {"fit": "stretch"}), "neither pad nor crop"),
    "a NaN weight": (model({"hidden.0.weight": NAN}), "`hidden.0.weight` must be float32 and fi"),
    "doubles": (
        model({"output.bias": torch.zeros(3, dtype=torch.float64)}),
        "`output.bias` must be float32 and finite",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_invalid_files(name: str, file: Path) -> None:
    content, cause = BAD[name]
    file.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message = refusal(file, read_model)
    assert cause in message
    assert message.endswith(REMEDY)
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert growth < 256 << 10  # KiB; weights as the card has them would take gigabytes


@pytest.mark.parametrize("card", [{"source": "0" * 64}, {"network": "rnn"}])
def test_a_network_changed_after_training(card: dict[str, Any], file: Path) -> None:
    file.write_bytes(model(**card))
    name = card.get("network", "mlp")
    assert refusal(file, read_model) == (
        f"its network, `{name}`, has been changed or removed since training "
        f"(src/image_pipeline/models/{name}.py); run `dvc repro` to retrain"
    )


def test_memory_formats_and_buffers_are_restored(tmp_path: Path) -> None:
    """The residual network's weights are channels_last, and its batch norm has buffers."""
    network = networks.build("resnet", {}, (3, 16, 16), 3)
    with torch.no_grad():
        for number, tensor in enumerate(network.state_dict().values()):
            tensor.fill_(number)
    card = replace(
        CARD,
        network="resnet",
        source=networks.source_hash("resnet"),
        input_shape=(3, 16, 16),
        options={},
        data=DatasetInfo("toy", NAMES, (0.5,) * 3, (0.25,) * 3),
    )
    write_model(tmp_path / "m", network, card)
    found, _ = read_model(tmp_path / "m")
    assert_same_weights(found, network)


# Before version 3, its weights had the other sign; the first version is no longer read.
VERSIONED = """
from torch import nn


class Signed(nn.Linear):
    _version = 3

    def _load_from_state_dict(self, state, prefix, metadata, *arguments):
        if metadata.get("version", 1) < 2:
            raise ValueError("the version must be 2 or 3")
        if metadata["version"] == 2:
            state[f"{prefix}weight"] = -state[f"{prefix}weight"]
        super()._load_from_state_dict(state, prefix, metadata, *arguments)


class Model(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.BatchNorm1d(4))
        self.head = Signed(4, classes)

    def forward(self, images):
        return self.head(self.layers(images))
"""


def test_versions_of_layers_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "custom.py").write_text(VERSIONED)
    monkeypatch.setattr(networks, "FOLDER", tmp_path)
    monkeypatch.setattr(models, "__path__", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "image_pipeline.models.custom", raising=False)
    source = networks.source_hash("custom")
    network = networks.build("custom", {}, (1, 2, 3), 3)
    path = tmp_path / "m"
    write_model(path, network, replace(CARD, network="custom", source=source, options={}))
    found, card = read_model(path)
    assert card.versions == {"layers.2": {"version": 2}, "head": {"version": 3}}
    assert_same_weights(found, network)

    def write_with(**versions: object) -> None:
        """Write the same weights with other versions."""
        values = json.loads(card.to_metadata()[METADATA_KEY]) | {"versions": versions}
        path.write_bytes(save(network.state_dict(), {METADATA_KEY: json.dumps(values)}))

    write_with(head={"version": 2})
    older, _ = read_model(path)
    for name, tensor in network.state_dict().items():
        expected = -tensor if name == "head.weight" else tensor
        assert torch.equal(older.state_dict()[name], expected)
    for versions, cause in (
        ({}, "its network refuses the weights (the version must be 2 or 3)"),
        ({"head": {"version": "new"}}, "its network refuses the weights ("),
        ({"head": 3}, "invalid model metadata (TypeError("),
    ):
        write_with(**versions)
        message = refusal(path, read_model)
        assert message.startswith(cause)
        assert message.endswith(REMEDY)


def test_a_network_without_versions_or_weights_of_others_has_the_metadata_it_always_had() -> None:
    assert VALUES.keys().isdisjoint({"versions", "weights"})


def test_a_split_of_another_shape_or_other_classes(tmp_path: Path) -> None:
    path = tmp_path / "test.safetensors"
    images, labels = torch.zeros(1, 1, 3, 2, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
    told = said_by(DataError, CARD.check_fits, path, Split(images, labels, CARD.data))
    assert "images of shape (1, 3, 2), but the model expects (1, 2, 3)" in told
    other = Split(
        images.reshape(1, 1, 2, 3), labels, DatasetInfo("toy", NAMES[::-1], (0.5,), (0.25,))
    )
    told = said_by(DataError, CARD.check_fits, path, other)
    assert "its classes differ from the model's; run `dvc repro" in told


@settings(quick, max_examples=300)
@given(content=damaged(GOOD) | st.binary(max_size=100))
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
