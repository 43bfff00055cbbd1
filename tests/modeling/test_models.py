"""Networks by name: those of the project, new ones, and the errors for invalid ones."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from image_pipeline import models
from image_pipeline.common.errors import NetworkError
from image_pipeline.modeling import networks
from image_pipeline.models import efficientnet_lite0, resnet
from refusals import said_by

MNIST = (1, 28, 28)


NETWORK = """
import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, shape, classes, *, width: int = 3, rate: float = 0.0):
        super().__init__()
        self.rates = torch.linspace(0, rate, 2).tolist()
        self.hidden = nn.LazyLinear(width)
        self.output = nn.Linear(width, classes)

    def forward(self, images):
        """
LOGITS = "return self.output(self.hidden(images.flatten(1)))"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a temporary folder of networks, with copies of the project's."""
    shutil.copytree(networks.FOLDER, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(models, "__path__", [str(tmp_path)])
    monkeypatch.setattr(networks, "FOLDER", tmp_path)
    return tmp_path


def write(folder: Path, name: str, content: str = NETWORK + LOGITS) -> None:
    """Write the file of a network."""
    sys.modules.pop(f"{models.__name__}.{name}", None)
    (folder / f"{name}.py").write_text(f"{content}\n")


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "options", "weights"),
    [
        ("mlp", {}, {"hidden.0": (120, 784), "hidden.1": (84, 120), "output": (10, 84)}),
        (
            "cnn",
            {"filters": [16, 64], "hidden_sizes": [48]},
            {
                "convolutions.0": (16, 1, 5, 5),  # 28 pixels become (28 - 5) // 2 + 1 = 12
                "convolutions.1": (64, 16, 5, 5),  # and these (12 - 5) // 2 + 1 = 4
                "hidden.0": (48, 64 * 4 * 4),
                "output": (10, 48),
            },
        ),
    ],
)
def test_the_shapes_of_parameters(
    name: str, options: dict[str, object], weights: dict[str, tuple[int, ...]]
) -> None:
    model = networks.build(name, options, MNIST, 10)
    assert model.training
    biases = {f"{layer}.bias": shape[:1] for layer, shape in weights.items()}
    assert shapes(model) == biases | {f"{layer}.weight": shape for layer, shape in weights.items()}


def test_the_mlp_by_hand() -> None:
    model = networks.build("mlp", {"hidden_sizes": [2]}, (1, 1, 2), 2)
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


@pytest.mark.parametrize("name", sorted({*networks.names()} - {"torchvision"}))  # colour only
@pytest.mark.parametrize(("shape", "classes"), [((1, 28, 28), 2), ((3, 97, 64), 100)])
def test_each_network_accepts_images_of_any_size(
    name: str, shape: tuple[int, int, int], classes: int
) -> None:
    model = networks.build(name, {}, shape, classes)
    logits = model(torch.randn(4, *shape))
    assert logits.shape == (4, classes)
    logits.sum().backward()
    assert all((w.grad is not None) == w.requires_grad for w in model.parameters())


def test_the_residual_networks_first_patterns_are_orthogonal_and_fixed() -> None:
    patterns = resnet.cosine_patterns(3, 30).flatten(1)
    basis = patterns[:12]
    products = basis @ basis.T
    assert torch.allclose(products, products.diag().diag(), atol=1e-5)
    assert products.diag().min() > 0.1
    assert torch.equal(patterns[12:24], -basis)
    assert torch.equal(patterns[24:], basis[:6])  # again
    small, large = (networks.build("resnet", {}, (3, side, side), 10) for side in (64, 65))
    frozen = [
        [n for n, w in model.named_parameters() if not w.requires_grad] for model in (small, large)
    ]
    assert frozen == [["stem.0.weight"], []]


def test_a_new_network_is_one_file(folder: Path) -> None:
    write(folder, "fresh")
    assert "fresh" in networks.names()
    model = networks.build("fresh", {"width": 5, "rate": 0.5}, (3, 4, 4), 7)
    assert shapes(model)["hidden.weight"] == (5, 48)  # the dry run has initialised the lazy layer
    assert networks.first_layer(model, (3, 4, 4)) == "hidden.weight"
    before = networks.source_hash("fresh")
    write(folder, "fresh", f"{NETWORK}{LOGITS}.relu()")
    assert networks.source_hash("fresh") != before


FILE = "src/image_pipeline/models/odd.py"
RETURNED = (
    f"{FILE}: forward must return logits float32 [B, 2] for images [B, 1, 4, 4]; for B = 2 it "
    "returned "
)
NOT_A_TENSOR = f"{LOGITS}\n\n    def get_extra_state(self):\n        return {{'steps': 3}}"


@pytest.mark.parametrize(
    ("options", "forward", "message"),
    [
        (
            {"widht": 3},
            LOGITS,
            "train.model.odd.widht: unknown option; the options are width, rate",
        ),
        (
            {"width": -3},
            LOGITS,
            "train.model.odd: the network fails with these options for 2 classes and images of "
            "1x4x4: ",
        ),
        ({}, "return self.hidden(images.flatten(1))", f"{RETURNED}torch.float32 [2, 3]"),
        ({}, "return [images]", f"{RETURNED}list []"),
        ({}, f"{LOGITS}.double()", f"{RETURNED}torch.float64"),
        (
            {},
            NOT_A_TENSOR,
            f"{FILE}: a model file stores tensors only, but `_extra_state` is of type dict; use "
            "`register_buffer` instead of `get_extra_state`",
        ),
    ],
)
def test_networks_that_are_refused(
    options: dict[str, object], forward: str, message: str, folder: Path
) -> None:
    write(folder, "odd", NETWORK + forward)
    assert said_by(NetworkError, networks.build, "odd", options, (1, 4, 4), 2).startswith(message)


def test_the_line_that_fails_is_named(folder: Path) -> None:
    write(folder, "odd", f"{NETWORK}return self.output(images)")
    with pytest.raises(NetworkError, match=rf"images of 1x4x4: .* \({FILE}, line 14\)$"):
        networks.build("odd", {}, (1, 4, 4), 2)


def test_a_function_may_build_the_network(folder: Path) -> None:
    begin = "from torch import nn\n\n\ndef Model(shape, classes, *, bias: bool = True):\n    "
    layers = "nn.Sequential(nn.Flatten(), nn.Linear(784, classes, bias))"
    write(folder, "linear", f"{begin}return {layers}")
    assert shapes(networks.build("linear", {"bias": False}, MNIST, 3)) == {"1.weight": (3, 784)}
    write(folder, "linear", f"{begin}return lambda images: images")
    with pytest.raises(NetworkError, match="`Model` returned a function, not an "):
        networks.build("linear", {}, MNIST, 3)


def test_a_name_without_a_file_or_a_model(folder: Path) -> None:
    said = said_by(NetworkError, networks.build, "resnte", {}, MNIST, 10)
    assert said.startswith("train.model.name: no network `resnte` in ")
    assert said.endswith(", mlp, resnet, torchvision")
    write(folder, "empty", "")
    said = said_by(NetworkError, networks.build, "empty", {}, MNIST, 10)
    assert said.endswith("empty.py: no `class Model(nn.Module)` in this file")


def wave(count: int, factor: int, period: int) -> torch.Tensor:
    """Return numbers that repeat with a period, around 0."""
    return ((torch.arange(count) * factor) % period).float() / period - 0.5


def test_efficientnet_lite0_computes_what_the_published_network_does() -> None:
    """Logits of the package efficientnet-lite-pytorch 0.1.0, for weights and images by a formula.

    From 32 pixels, layers see 16, 8, 4, 2 and 1: every padding there is, on one side and on both.
    """
    model = networks.build("efficientnet_lite0", {}, (3, 32, 32), 4).eval()
    assert len(model.state_dict()) == 296
    assert sum(weights.numel() for weights in model.parameters()) == 3_371_008 + 4 * 1281
    for number, (name, tensor) in enumerate(model.state_dict().items()):
        values = wave(tensor.numel() + number, 37, 101)[number:].reshape(tensor.shape)
        if tensor.dim() > 1:
            tensor.copy_(values * (12 / tensor[0].numel()) ** 0.5)
        elif not name.endswith("num_batches_tracked"):
            tensor.copy_(values + name.endswith(("running_var", "weight")))
    images = (((torch.arange(2 * 3 * 32 * 32) * 53) % 211).float() / 105 - 1).reshape(2, 3, 32, 32)
    with torch.no_grad():
        logits = model(images)
    published = [[-4.0311, -6.6202, -9.1103, -7.5992], [-4.0394, -6.6273, -9.1121, -7.5822]]
    assert torch.allclose(logits, torch.tensor(published), atol=2e-3)


def test_efficientnet_lite0s_published_weights() -> None:
    weights = efficientnet_lite0.pretrained()
    assert weights.sha256.startswith("57934424")  # as the file's name says
    assert weights.license == "apache-2.0"
    assert torch.allclose(torch.tensor(weights.mean) * 255, torch.tensor(127.0))
    assert torch.allclose(torch.tensor(weights.std) * 255, torch.tensor(128.0))


@pytest.mark.parametrize(
    ("name", "options", "head"),
    [
        ("mlp", {}, "output"),
        ("cnn", {}, "output"),
        ("resnet", {}, "output"),
        ("efficientnet_lite0", {}, "_fc"),
        ("torchvision", {"name": "squeezenet1_1"}, "classifier.1"),  # a 1x1 convolution
        ("torchvision", {"name": "mobilenet_v3_small"}, "classifier.3"),
        ("torchvision", {"name": "vit_b_32"}, "heads.head"),
    ],
)
def test_the_head_is_the_last_layer(name: str, options: dict[str, object], head: str) -> None:
    with torch.device("meta"):
        model = networks.build(name, options, (3, 64, 64), 7, dry_run=False)
    assert networks.head(model, 7) == head
    layer = model.get_submodule(head)
    assert {len(weights) for weights in layer.parameters()} == {7}
    assert networks.head(model, 5) is None


def test_torchvisions_networks_by_name() -> None:
    model = networks.build("torchvision", {"name": "resnet18"}, (3, 64, 64), 7)
    assert sum(weights.numel() for weights in model.parameters()) == 11_176_512 + 7 * 513
    for shape, options, said in (
        ((3, 64, 64), {"name": "resnet19"}, "torchvision.models has no classification network 're"),
        ((1, 64, 64), {}, "torchvision's networks take colour images"),
        ((3, 64, 65), {"name": "vit_b_32"}, "Wrong image width"),
        ((3, 64, 64), {"depth": 18}, "depth: unknown option; the options are name, weights"),
    ):
        with pytest.raises(NetworkError, match=said):
            networks.build("torchvision", options, shape, 7)


def test_images_too_small_for_the_cnn() -> None:
    with pytest.raises(NetworkError, match="too small for more than 2 blocks"):
        networks.build("cnn", {"filters": [8, 8, 8]}, MNIST, 10)
    networks.build("cnn", {"filters": [8, 8, 8]}, (1, 29, 29), 10)


def test_first_layers_that_can_be_drawn() -> None:
    assert networks.first_layer(nn.Sequential(nn.Linear(784, 5)), MNIST) == "0.weight"
    assert networks.first_layer(nn.Sequential(nn.Conv2d(1, 5, 3)), MNIST) == "0.weight"
    assert networks.first_layer(nn.Sequential(nn.Linear(16, 5)), MNIST) is None  # of patches
    assert networks.first_layer(nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 5, 3)), MNIST) is None
    assert networks.first_layer(nn.Sequential(nn.ReLU()), MNIST) is None
