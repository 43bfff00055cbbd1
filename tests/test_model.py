"""The network, its preprocessing and its file."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from image_pipeline.errors import DataError, ParamsError
from image_pipeline.model import build_model, normalise, read_model, write_model
from image_pipeline.model_card import ModelCard
from image_pipeline.params import AugmentationParams
from image_pipeline.tensor_files import Description, Split

DIGITS = Description("mnist", tuple("0123456789"), (0.1307,), (0.3081,))
AUGMENTATION = AugmentationParams(
    rotation=10.0, scale=0.1, shear=0.0, translation=0.1, elastic=0.0, group_size=8
)
MNIST_CARD = ModelCard((1, 28, 28), (120, 84), DIGITS, AUGMENTATION)
CNN_CARD = dataclasses.replace(MNIST_CARD, hidden_sizes=(48,), channels=(16, 64))
SMALL_CARD = ModelCard(
    (1, 1, 2), (2,), Description("toy", ("a", "b"), (0.0,), (1.0,)), AUGMENTATION
)


def test_the_flagship_has_105214_parameters() -> None:
    model = build_model(MNIST_CARD)
    assert sum(parameter.numel() for parameter in model.parameters()) == 105_214
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes == {
        "hidden.0.weight": (120, 784),
        "hidden.0.bias": (120,),
        "hidden.1.weight": (84, 120),
        "hidden.1.bias": (84,),
        "output.weight": (10, 84),
        "output.bias": (10,),
    }


def test_forward_by_hand() -> None:
    model = build_model(SMALL_CARD)
    model.load_state_dict(
        {
            "hidden.0.weight": torch.tensor([[1.0, 2.0], [-1.0, 0.0]]),
            "hidden.0.bias": torch.tensor([0.5, 1.0]),
            "output.weight": torch.tensor([[1.0, 10.0], [-2.0, 0.0]]),
            "output.bias": torch.tensor([0.0, 3.0]),
        }
    )
    # Hidden: 3 + 8 + 0.5 = 11.5, and -3 + 1 = -2, which ReLU makes 0. Logits: 11.5 and -23 + 3.
    assert model(torch.tensor([[[[3.0, 4.0]]]])).tolist() == [[11.5, -20.0]]


def test_a_convolutional_networks_weights() -> None:
    shapes = {
        name: tuple(tensor.shape) for name, tensor in build_model(CNN_CARD).state_dict().items()
    }
    # 28 pixels become (28 - 5) // 2 + 1 = 12, and these (12 - 5) // 2 + 1 = 4.
    assert shapes == {
        "convolutions.0.weight": (16, 1, 5, 5),
        "convolutions.0.bias": (16,),
        "convolutions.1.weight": (64, 16, 5, 5),
        "convolutions.1.bias": (64,),
        "hidden.0.weight": (48, 64 * 4 * 4),
        "hidden.0.bias": (48,),
        "output.weight": (10, 48),
        "output.bias": (10,),
    }


@pytest.mark.parametrize("hidden_sizes", [(), (7,), (7, 5)])
@pytest.mark.parametrize(
    ("shape", "channels"),
    [
        ((1, 16, 16), (4, 3)),
        ((3, 28, 28), (5,)),
        ((3, 64, 64), (4, 4, 4, 4)),
        ((2, 31, 45), (2, 3)),
        ((1, 28, 28), ()),
        ((3, 4, 5), ()),
    ],
)
@pytest.mark.parametrize("classes", [2, 100])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_outputs_and_gradients_are_those_of_torch(
    shape: tuple[int, int, int],
    channels: tuple[int, ...],
    hidden_sizes: tuple[int, ...],
    classes: int,
    label_smoothing: float,
) -> None:
    names = tuple(str(number) for number in range(classes))
    statistics = (0.5,) * shape[0], (0.25,) * shape[0]
    card = ModelCard(
        shape, hidden_sizes, Description("toy", names, *statistics), AUGMENTATION, channels
    )
    torch.manual_seed(0)
    model = build_model(card)
    layers: list[torch.nn.Module] = []
    for convolution in getattr(model, "convolutions", ()):
        layers += [convolution, torch.nn.ReLU()]
    layers.append(torch.nn.Flatten())
    for layer in model.hidden:
        layers += [layer, torch.nn.ReLU()]
    same = torch.nn.Sequential(*layers, model.output)
    images = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(5) % classes
    assert model(images).shape == (5, classes)
    assert torch.allclose(model(images), same(images), atol=1e-5)

    # Torch's own, in float64 for once.
    weights = list(model.parameters())
    copy = [weight.detach().double().requires_grad_() for weight in weights]
    named = dict(zip((name for name, _ in model.named_parameters()), copy, strict=True))
    of = {id(weight): name for name, weight in model.named_parameters()}
    renamed = {name: named[of[id(weight)]] for name, weight in same.named_parameters()}
    logits = torch.func.functional_call(same, renamed, images.double())
    losses = torch.nn.functional.cross_entropy(
        logits, labels, label_smoothing=label_smoothing, reduction="none"
    )
    expected = torch.autograd.grad(0.25 * losses.sum(), copy)

    found = [np.full(tuple(weight.shape), np.nan, np.float32) for weight in weights]
    loss, correct = model.learn(
        images.numpy(), labels.numpy(), share=0.25, label_smoothing=label_smoothing, out=found
    )
    assert loss == pytest.approx(losses.sum().item(), rel=1e-5)
    assert correct == int((logits.argmax(1) == labels).sum())
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(torch.from_numpy(one).double(), other, atol=1e-5)


def test_no_hidden_layer_is_a_linear_model() -> None:
    model = build_model(dataclasses.replace(SMALL_CARD, hidden_sizes=()))
    model.load_state_dict(
        {"output.weight": torch.tensor([[1.0, 2.0], [0.0, 3.0]]), "output.bias": torch.zeros(2)}
    )
    assert model(torch.tensor([[[[3.0, 4.0]]]])).tolist() == [[11.0, 12.0]]


@pytest.mark.parametrize(
    ("shape", "blocks", "said"),
    [
        ((1, 28, 28), 3, "at least 29x29 pixels, these have 28x28; take 2 at most, or set"),
        ((3, 64, 12), 2, "at least 13x13 pixels, these have 64x12; take 1 at most, or set"),
        ((1, 4, 9), 1, "at least 5x5 pixels, these have 4x9; set"),
    ],
)
def test_images_too_small_for_the_blocks(
    shape: tuple[int, int, int], blocks: int, said: str
) -> None:
    card = dataclasses.replace(MNIST_CARD, input_shape=shape, channels=(8,) * blocks)
    with pytest.raises(ParamsError) as caught:
        card.check_sizes(Path("params.yaml"))
    assert str(caught.value) == (
        f"params.yaml: train.channels: {blocks} convolution blocks need images of {said} "
        "train.model to mlp"
    )


@pytest.mark.parametrize(("side", "blocks"), [(5, 1), (12, 1), (13, 2), (28, 2), (29, 3), (61, 4)])
def test_images_just_large_enough(side: int, blocks: int) -> None:
    card = dataclasses.replace(MNIST_CARD, input_shape=(1, side, side), channels=(2,) * blocks)
    card.check_sizes(Path("params.yaml"))
    assert build_model(card)(torch.zeros(1, 1, side, side)).shape == (1, 10)


@pytest.mark.parametrize(
    ("hidden_sizes", "before", "after"),
    [
        ((32768, 32769), "32,768", "32,769"),
        ((16, 65536, 16385), "65,536", "16,385"),
    ],
)
def test_more_weights_than_a_layer_may_have(
    hidden_sizes: tuple[int, ...], before: str, after: str
) -> None:
    """They are refused before training: the model's reader would refuse them after it."""
    card = dataclasses.replace(MNIST_CARD, hidden_sizes=hidden_sizes)
    with pytest.raises(ParamsError) as caught:
        card.check_sizes(Path("params.yaml"))
    said = str(caught.value)
    assert said.startswith(
        f"params.yaml: train.hidden_sizes: the layer from {before} to {after} values would have 1,"
    )
    assert said.endswith("weights, 1,073,741,824 at most; lower one of the two")
    with pytest.raises(DataError, match="out of bounds"):
        ModelCard.from_metadata(Path("model.safetensors"), card.to_metadata())


def test_as_many_weights_as_a_layer_may_have() -> None:
    card = dataclasses.replace(MNIST_CARD, hidden_sizes=(32768, 32768))
    card.check_sizes(Path("params.yaml"))
    assert ModelCard.from_metadata(Path("model.safetensors"), card.to_metadata()) == card


def test_normalise_by_hand() -> None:
    description = Description("toy", ("a", "b"), (0.0, 0.2), (1.0, 0.4))
    images = np.array([[[[0, 255]], [[51, 153]]]], np.uint8)  # [1, 2, 1, 2]
    expected = [[[[0.0, 1.0]], [[0.0, 1.0]]]]  # (153 - 51) / 102
    result = normalise(images, description)
    assert result.dtype == np.float32
    assert np.allclose(result, expected, atol=1e-6)
    assert images.tolist() == [[[[0, 255]], [[51, 153]]]]
    pixels = images.astype(np.float32)
    assert normalise(pixels, description, out=pixels) is pixels
    assert np.array_equal(pixels, result)


@pytest.mark.parametrize("written", [MNIST_CARD, CNN_CARD], ids=["mlp", "cnn"])
def test_a_model_and_its_card_come_back_as_they_were(written: ModelCard, tmp_path: Path) -> None:
    path = tmp_path / "models" / "model.safetensors"
    model = build_model(written)
    write_model(path, model, written)
    found, card = read_model(path)
    assert card == written
    assert not found.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, found.state_dict()[name])


def test_the_same_model_is_the_same_bytes(tmp_path: Path) -> None:
    model = build_model(MNIST_CARD)
    for name in ("one", "other"):
        write_model(tmp_path / name, model, MNIST_CARD)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    with safe_open(tmp_path / "one", framework="pt") as file:
        assert list(file.metadata()) == ["image_pipeline"]  # a second key would be in random order
        values = json.loads(file.metadata()["image_pipeline"])
    assert values["hidden_sizes"] == [120, 84]
    assert {"model", "channels"}.isdisjoint(values)  # as before there was another model
    assert values["data"]["class_names"] == list("0123456789")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    model = build_model(SMALL_CARD)
    with torch.no_grad():
        model.output.bias[0] = value
    write_model(tmp_path / "m", model, SMALL_CARD)
    with pytest.raises(DataError, match=r"m: `output.bias` is not float32 and finite throughout;"):
        read_model(tmp_path / "m")


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    write_model(tmp_path / "m", build_model(SMALL_CARD), MNIST_CARD)
    with pytest.raises(DataError, match="are not those of its card; run `dvc repro --force train`"):
        read_model(tmp_path / "m")


def test_a_missing_a_torn_and_a_foreign_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m"
    with pytest.raises(DataError, match="m: not found; run `dvc repro train`"):
        read_model(path)
    write_model(path, build_model(SMALL_CARD), SMALL_CARD)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="m: it is no valid safetensors file"):
        read_model(path)
    path.write_text("no model at all")
    with pytest.raises(DataError, match="m: it is no valid safetensors file"):
        read_model(path)


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        (None, "its card is unreadable"),
        ({"image_pipeline": "{"}, "its card is unreadable"),
        ({"image_pipeline": "{}"}, "input_shape"),
        ({"image_pipeline": '{"input_shape": [1, 28]}'}, "not enough values"),
    ],
)
def test_what_is_no_card_is_refused(metadata: dict[str, str] | None, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        ModelCard.from_metadata(Path("m"), metadata)


def test_a_card_of_absurd_sizes_is_refused() -> None:
    card = dataclasses.replace(SMALL_CARD, hidden_sizes=(2**20, 2**20))
    with pytest.raises(DataError, match="its sizes are out of bounds"):
        ModelCard.from_metadata(Path("m"), card.to_metadata())


def test_a_card_tells_which_images_it_fits() -> None:
    labels = torch.zeros(1, dtype=torch.int64)
    good = Split(torch.zeros(1, 1, 28, 28, dtype=torch.uint8), labels, DIGITS)
    MNIST_CARD.check_fits(Path("t"), good)
    large = Split(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), labels, DIGITS)
    with pytest.raises(DataError, match=r"\(3, 32, 32\), the model takes \(1, 28, 28\)"):
        MNIST_CARD.check_fits(Path("t"), large)
    letters = dataclasses.replace(DIGITS, class_names=tuple("abcdefghij"))
    with pytest.raises(DataError, match="t: other classes than the model's"):
        MNIST_CARD.check_fits(Path("t"), dataclasses.replace(good, description=letters))
