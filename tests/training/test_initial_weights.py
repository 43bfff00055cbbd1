"""Pretrained weights in a network: what is copied, what stays random, and what does not fit."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision import models as torchvision_models

from image_pipeline.common.errors import NetworkError
from image_pipeline.modeling import networks, ood
from image_pipeline.modeling.model_file import read_model, write_model
from image_pipeline.pretrained.weights import PretrainedWeights, write_manifest
from image_pipeline.training.checkpoint import CheckpointFile
from image_pipeline.training.initial_weights import InitialWeights
from image_pipeline.training.train import Trainer
from refusals import refusal
from toy import FLAT, KEY, choice, make_split, make_trainer
from toy import train as train_toy

INFO = PretrainedWeights(
    "a network of ours", "w.safetensors", "", "https://a.org/b", "mit", (0.25,), (0.125,)
)
SHAPE = (1, 8, 8)
MLP = {"hidden_sizes": [5]}


def saved(folder: Path, tensors: dict[str, Tensor], **info: Any) -> InitialWeights:
    """Return weights as the stage `weights` leaves them."""
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / INFO.file)
    write_manifest(folder, replace(INFO, **info))
    found = InitialWeights.read(folder)
    assert found
    return found


def mlp(classes: int, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return networks.build("mlp", MLP, SHAPE, classes)


@pytest.mark.parametrize("classes", [1000, 3])
def test_all_but_the_head_is_copied_which_may_be_missing(classes: int, tmp_path: Path) -> None:
    published, random = mlp(classes, seed=1).state_dict(), mlp(3, seed=2).state_dict()
    backbone = {key: tensor for key, tensor in published.items() if not key.startswith("output")}
    for tensors in (published, backbone):
        own = mlp(3, seed=2)
        saved(tmp_path, tensors).load_into(own, "mlp", 3)
        for key, tensor in own.state_dict().items():
            assert torch.equal(tensor, (backbone if key in backbone else random)[key])


@pytest.mark.parametrize(
    ("name", "options", "differences"),
    [
        (
            "mlp",
            {"hidden_sizes": [6]},
            "`hidden.0.weight` is [6, 64] in the network and [5, 64] in the file; "
            "`hidden.0.bias` is [6] in the network and [5] in the file",
        ),
        (
            "mlp",
            {"hidden_sizes": [5, 2]},
            "`hidden.1.weight` is [2, 5] in the network and not there in the file; "
            "`hidden.1.bias` is [2] in the network and not there in the file",
        ),
        (
            "cnn",
            {"filters": [2]},
            "`convolutions.0.weight` is [2, 1, 5, 5] in the network and not there in the file; "
            "`convolutions.0.bias` is [2] in the network and not there in the file; "
            "`hidden.0.weight` is [120, 8] in the network and [5, 64] in the file; and 3 more",
        ),
    ],
)
def test_weights_of_another_network(
    name: str, options: dict[str, Any], differences: str, tmp_path: Path
) -> None:
    weights = saved(tmp_path, mlp(1000, seed=1).state_dict())
    model = networks.build(name, options, SHAPE, 3)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    assert refusal(weights.path, lambda _: weights.load_into(model, name, 3)) == (
        f"these are weights of another network than {name} with its options: {differences}"
    )
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    damaged = mlp(3, seed=1).state_dict()
    damaged["hidden.0.bias"][1] = torch.nan
    weights = saved(tmp_path, damaged)
    said = refusal(weights.path, lambda _: weights.load_into(mlp(3, seed=2), "mlp", 3))
    assert said == "`hidden.0.bias` holds values that are not finite"


def test_a_network_without_a_head(tmp_path: Path) -> None:
    weights = saved(tmp_path, mlp(3, seed=1).state_dict())
    headless = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 8), torch.nn.Flatten())
    with pytest.raises(NetworkError, match=r"^train.model.mlp: pretrained weights need a last la"):
        weights.load_into(headless, "mlp", 3)


def test_old_files_without_batch_norms_counter(tmp_path: Path) -> None:
    published = networks.build("resnet", {"filters": [4]}, (3, 8, 8), 7)
    with torch.no_grad():
        for buffer in published.buffers():
            buffer.fill_(5)
    old = {k: t for k, t in published.state_dict().items() if not k.endswith("tracked")}
    own = networks.build("resnet", {"filters": [4]}, (3, 8, 8), 3)
    saved(tmp_path, {key: tensor.contiguous() for key, tensor in old.items()}).load_into(
        own, "resnet", 3
    )
    assert {float(buffer.max()) for buffer in own.buffers()} == {0, 5}


@pytest.mark.parametrize(
    ("name", "heads", "left_out"),
    [
        ("resnet18", "fc.", ()),
        ("squeezenet1_1", "classifier.1.", ()),
        ("densenet121", "classifier.", ()),
        ("googlenet", "fc.", ("aux1.", "aux2.")),
    ],
)
def test_torchvisions_files_fit(
    name: str, heads: str, left_out: tuple[str, ...], tmp_path: Path
) -> None:
    options = {"init_weights": False} if name == "googlenet" else {}
    torch.manual_seed(1)
    published = torchvision_models.get_model(name, **options).state_dict()
    # DenseNet's layers as its file has them; no other network has such names.
    file = {re.sub(r"(denselayer.*norm)", r"\1.", key): tensor for key, tensor in published.items()}
    weights = saved(tmp_path, file)
    own = networks.build("torchvision", {"name": name}, (3, 64, 64), 3)
    weights.load_into(own, "torchvision", 3)
    assert own.state_dict().keys() == {
        key for key in published if not key.startswith(left_out or "none")
    }
    for key, tensor in own.state_dict().items():
        assert torch.equal(tensor, published[key]) is not key.startswith(heads), key


def train(weights: InitialWeights | None, folder: Path, **changes: Any) -> Trainer:
    settings: dict[str, Any] = {"model": choice("mlp", **MLP), "epochs": 1} | changes
    run = make_trainer((24, 12), SHAPE, weights=weights, **settings)
    return train_toy(run, CheckpointFile(folder, KEY))


def test_images_are_normalised_as_for_the_weights(tmp_path: Path) -> None:
    weights = saved(tmp_path / "weights", mlp(9, seed=1).state_dict())
    trainer = train(weights, tmp_path, augmentation=FLAT)
    for info in (trainer.card.data, trainer.train_split.info, trainer.validation_split.info):
        assert (info.mean, info.std) == ((0.25,), (0.125,))
    [*batches] = trainer.loader.epoch(1, range)
    for batch in batches:
        for microbatch in batch.microbatches:
            values = microbatch.images.numpy()
            assert values.min() == pytest.approx((0 - 0.25) / 0.125, abs=0.1)
            assert values.max() == pytest.approx((1 - 0.25) / 0.125, abs=0.1)


def test_weights_for_another_number_of_channels(tmp_path: Path) -> None:
    weights = saved(tmp_path / "weights", mlp(9, seed=1).state_dict(), mean=(0.5,) * 3)
    assert refusal(weights.path, lambda _: train(weights, tmp_path)) == (
        "these weights are for images with 3 channels, and the images have 1; set "
        "tensorize.folder.channels, or weights.mean and weights.std of a file of your own"
    )


def test_a_restart_from_a_damaged_checkpoint_starts_from_the_weights_again(tmp_path: Path) -> None:
    weights = saved(tmp_path / "weights", mlp(9, seed=1).state_dict())
    whole = train(weights, tmp_path / "whole")
    checkpoint = CheckpointFile(tmp_path / "damaged", KEY)
    checkpoint.save({"model": {}})
    again = train(weights, tmp_path / "damaged")
    assert again.state.digest() == whole.state.digest()
    assert again.state.digest() != train(None, tmp_path / "random").state.digest()


def test_a_model_file_names_its_weights_needs_them_no_more_and_is_itself_one(
    tmp_path: Path,
) -> None:
    weights = saved(tmp_path / "weights", mlp(9, seed=1).state_dict())
    trainer = train(weights, tmp_path)
    statistics = ood.TrainingStatistics(*np.zeros((2, *SHAPE), np.uint8))
    write_model(tmp_path / "model", trainer.state.model, trainer.card, statistics)
    for path in weights.path.parent.iterdir():
        path.unlink()
    model, card = read_model(tmp_path / "model")
    assert card.weights == weights.provenance
    assert card.weights.sha256 == weights.info.sha256
    assert (card.data.mean, card.data.std) == ((0.25,), (0.125,))
    trained = trainer.state.model.state_dict()
    for name, tensor in trained.items():
        assert torch.equal(model.state_dict()[name], tensor)
    own = mlp(4, seed=2)
    path = (tmp_path / "model").rename(weights.path)
    InitialWeights(INFO, path).load_into(own, "mlp", 4)
    assert torch.equal(own.state_dict()["hidden.0.weight"], trained["hidden.0.weight"])


@pytest.mark.parametrize(
    ("size", "fraction", "noted"),
    [(None, 1.0, False), (8, 1.0, False), (8, 0.875, False), (6, 1.0, False), (224, 0.875, True)],
)
def test_images_of_another_size_are_noted(size: int | None, fraction: float, noted: bool) -> None:
    info = replace(INFO, image_size=size, crop_fraction=fraction)
    said = (
        "the weights learnt from images of 224 pixels, 0.875 of the shorter side; these have 8 and "
        "1 (tensorize.folder.image_size and crop_fraction)"
    )
    assert InitialWeights(info, Path("w")).note(make_split(3, 0, SHAPE)) == said * noted


def test_there_are_no_weights(tmp_path: Path) -> None:
    write_manifest(tmp_path, None)
    assert InitialWeights.read(tmp_path) is None
