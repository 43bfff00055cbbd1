"""Custom networks, each dropped in as one file, and a project to train them in.

None of these is part of the project, and each holds layers that no other one here has.
"""

from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from project import Project

IMAGES = {"train": 96, "validation": 40}  # so few, for the emulator's sake
# Small enough for an emulator, with all that a recipe uses.
OPTIONS: dict[str, dict[str, object]] = {
    "resnet": {"stem_filters": 4, "filters": [8, 12], "window": 6, "mirror": True},
    "efficientnet_lite0": {"pretrained": False},
}
# For its instance norm with running statistics; for the Fourier transform.
NOT_IN_ONNX = {"recurrent", "transformed"}


HEAD = """
import torch
from torch import Tensor, nn
from torch.nn import functional

"""

# Residual blocks, batch norm, dropout, depthwise convolution, GELU, layer norm, attention.
HYBRID = """
class Block(nn.Module):
    def __init__(self, width: int, rate: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.pointwise = nn.Conv2d(width, width, 1)
        self.drop = nn.Dropout2d(rate)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.gelu(self.norm(self.depthwise(x)))
        return x + self.drop(self.pointwise(y))


class Model(nn.Module):
    def __init__(self, shape, classes, *, width: int = 16, rate: float = 0.1) -> None:
        super().__init__()
        rates = torch.linspace(0, rate, 2).tolist()
        self.stem = nn.Conv2d(shape[0], width, 4, 4)
        self.blocks = nn.Sequential(*(Block(width, share) for share in rates))
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, dropout=rate, batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.blocks(self.stem(images)).flatten(2).transpose(1, 2)
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return self.head(x.mean(1))
"""
# Rows of the image as a sequence; instance and group norm; stochastic depth by Python's own dice.
RECURRENT = """
import random


class Model(nn.Module):
    def __init__(self, shape, classes, *, units: int = 12) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(shape[0], affine=True, track_running_stats=True)
        self.rows = nn.GRU(shape[0] * shape[2], units, batch_first=True, bidirectional=True)
        self.group = nn.GroupNorm(4, 2 * units)
        self.head = nn.utils.parametrizations.weight_norm(nn.Linear(2 * units, classes))

    def forward(self, images: Tensor) -> Tensor:
        rows = self.norm(images).transpose(1, 2).flatten(2)
        states, _ = self.rows(rows)
        found = self.group(states.mean(1))
        if self.training and random.random() < 0.2:
            found = found * 0.5
        return self.head(functional.silu(found))
"""
# A library's network, with its own batch norm, squeeze and excitation, and hard swish.
TORCHVISION = """
from torchvision.models import mobilenet_v3_small


class Model(nn.Module):
    def __init__(self, shape, classes) -> None:
        super().__init__()
        self.layers = mobilenet_v3_small(num_classes=classes, width_mult=0.25, dropout=0.2)

    def forward(self, images: Tensor) -> Tensor:
        images = functional.interpolate(images, size=32, mode="bilinear")
        return self.layers(images.expand(-1, 3, -1, -1))
"""
# A spatial transformer, a filter of the image's spectrum, and rows read by oneDNN's LSTM.
TRANSFORMED = """
class Model(nn.Module):
    def __init__(self, shape, classes, *, units: int = 12) -> None:
        super().__init__()
        channels, height, width = shape
        self.where = nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, 6))
        nn.init.normal_(self.where[1].weight, std=0.01)
        self.where[1].bias.data = torch.tensor([1.0, 0.1, 0.0, -0.1, 1.0, 0.0])
        self.filter = nn.Parameter(torch.ones(channels, height, width // 2 + 1, 2))
        self.rows = nn.LSTM(
            channels * width, units, 2, dropout=0.2, batch_first=True, bidirectional=True
        )
        self.head = nn.Linear(2 * units, classes)

    def forward(self, images: Tensor) -> Tensor:
        grid = functional.affine_grid(
            self.where(images).view(-1, 2, 3), images.shape, align_corners=False
        )
        x = functional.grid_sample(images, grid, align_corners=False)
        spectrum = torch.fft.rfft2(x, norm="ortho") * torch.view_as_complex(self.filter)
        x = torch.fft.irfft2(spectrum, s=x.shape[2:], norm="ortho")
        return self.head(self.rows(x.transpose(1, 2).flatten(2))[0].mean(1))
"""
# Its layers check the version of the state that they load.
VERSIONED = """
from torchvision.models import MNASNet


class Model(nn.Module):
    def __init__(self, shape, classes) -> None:
        super().__init__()
        self.layers = MNASNet(0.1, num_classes=classes)

    def forward(self, images: Tensor) -> Tensor:
        images = functional.interpolate(images, size=64, mode="bilinear")
        return self.layers(images.expand(-1, 3, -1, -1))
"""
NETWORKS = {
    "hybrid": HYBRID,
    "recurrent": RECURRENT,
    "torchvision_net": TORCHVISION,
    "transformed": TRANSFORMED,
}
# Training that ends where its first checkpoint is on the disk.
STOPPED_TRAINING = """
import runpy
from image_pipeline import numerics
numerics.pin("portable")  # before what imports torch
from image_pipeline.common import files
from image_pipeline.training import checkpoint

def write_and_stop(path, content):
    files.write_bytes(path, content)
    raise SystemExit(1)

checkpoint.write_bytes = write_and_stop
runpy.run_path("stages/train.py", run_name="__main__")
"""
# An operation that no test has proved to be the same everywhere.
UNPROVED = """
class Warped(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.logit(images, eps=0.1)


class Model(nn.Module):
    def __init__(self, shape, classes) -> None:
        super().__init__()
        self.layers = nn.Sequential(Warped(), nn.Flatten(), nn.LazyLinear(classes))
        self.register_buffer("before", torch.zeros(1, *shape))

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            warped = self.layers[0](self.before)
        return self.layers[1:](images + warped)
"""


def params_of(name: str) -> dict[str, object]:
    """Return params that choose a network, and an optimizer that is not the committed one."""
    options = {f"train.model.{name}": OPTIONS[name]} if name in OPTIONS else {}
    return options | {
        "download.dataset": "digits",
        "train.model.name": name,
        "train.optimizer.name": "SGD",
        "train.optimizer.SGD": {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
        "train.learning_rate": 0.05,
        "train.epochs": 1,
        "train.batch_size": 32,  # three steps
        "train.augmentation.horizontal_flip": 0.5,
        "train.augmentation.crop_padding": 2,
        "train.augmentation.cutout": 4,
        "train.augmentation.min_crop_scale": 0.5,
        "train.augmentation.brightness": 0.2,
        "train.augmentation.contrast": 0.2,
    }


def project_with_networks(root: Path) -> Project:
    """Return a project that has all networks in it, and the tensors to learn from."""
    project = Project(root)
    for name, code in {**NETWORKS, "versioned": VERSIONED, "unproved": UNPROVED}.items():
        path = project.root / "src" / "image_pipeline" / "models" / f"{name}.py"
        path.write_text(f'"""A network that this project does not know."""\n{HEAD}{code}')
    for stage in ("download", "tensorize", "weights"):
        project.stage(stage)
    keep_few(project, IMAGES)
    return project


def keep_few(project: Project, images: Mapping[str, int]) -> None:
    """Keep so many images of each split."""
    for split, count in images.items():
        path = project.root / "data" / "tensors" / f"{split}.safetensors"
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata()
        few = {name: values[:count] for name, values in load_file(path).items()}
        save_file(few, path, metadata)
