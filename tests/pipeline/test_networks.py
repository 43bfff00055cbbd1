"""Networks of one's own, dropped in as one file: they train, resume, and give the same bits.

None of these is part of the project, and each holds layers that no other one here has.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from kill_harness import Undisturbed
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from project import Project, require

# Emulated processors, AMD's and Intel's, and what is trained on each. The project's own networks
# are tried here, too, but for the perceptron, which test_same_bits.py tries. Two other processors,
# of the same makers, compute every operation in numerics/test_operations.py.
PROCESSORS = {
    "EPYC-Rome": ("hybrid", "recurrent", "resnet"),
    "Skylake-Client": ("hybrid", "cnn", "torchvision_net"),
}
TRAINED = sorted({name for names in PROCESSORS.values() for name in names})
IMAGES = {"train": 80, "validation": 40}  # so few, for the emulator's sake
# Small enough for an emulator, with all that a recipe uses.
OPTIONS: dict[str, dict[str, object]] = {
    "resnet": {"stem_filters": 4, "filters": [8, 12], "window": 6, "mirror": True}
}
EIGHT_PROCESSORS = """
import os
os.cpu_count = os.process_cpu_count = lambda: 8
os.sched_getaffinity = lambda pid: set(range(8))
"""
# Lanes of a thirty-second of the usual size, so that these small batches are shared by processes,
# and no pictures, which test_same_bits.py draws on another processor. Each network is exported,
# too, as the stage does it; NOT_IN_ONNX is refused, everywhere alike.
SMALL_LANES = """
from image_pipeline import numerics
numerics.pin("portable")
from image_pipeline.training import lanes
lanes.LANE_BYTES, lanes.LEAST_IMAGES = 1 << 15, 8
from image_pipeline.training import curves
curves.draw_curves = lambda path, history: None
import os, runpy, sys
from image_pipeline.common import paths
from image_pipeline.common.errors import ExportError
from image_pipeline.exporting.onnx_file import to_onnx
from image_pipeline.modeling.model_file import read_model
for root in sys.argv[1:]:
    os.chdir(root)
    sys.argv = ["stages/train.py"]
    runpy.run_path("stages/train.py", run_name="__main__")
    try:
        exported = to_onnx(*read_model(paths.MODEL), {})
    except ExportError as error:
        exported = str(error).encode()
    paths.ONNX.write_bytes(exported)
"""
NOT_IN_ONNX = {"recurrent"}  # for its instance norm with running statistics

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
NETWORKS = {"hybrid": HYBRID, "recurrent": RECURRENT, "torchvision_net": TORCHVISION}
# An operation that no test has proved to be the same everywhere.
UNPROVED = """
class Warped(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.special.airy_ai(images)


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
        "train.batch_size": 40,
        "train.augmentation.horizontal_flip": 0.5,
        "train.augmentation.crop_padding": 2,
        "train.augmentation.cutout": 4,
    }


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project that has all networks in it, and the tensors to learn from."""
    project = Project(tmp_path_factory.mktemp("networks") / "project")
    for name, code in {**NETWORKS, "unproved": UNPROVED}.items():
        path = project.root / "src" / "image_pipeline" / "models" / f"{name}.py"
        path.write_text(f'"""A network that this project does not know."""\n{HEAD}{code}')
    for stage in ("download", "tensorize"):
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


def train(
    folder: Path, tensors: Project, names: Sequence[str], prefix: Sequence[str] = (), site: str = ""
) -> dict[str, dict[str, str]]:
    """Train networks, one after the other in one process, which saves an emulator the imports.

    Returns:
        By network the hashes of all outputs, which the portable ones must be said to be.
    """
    projects = {name: tensors.copy_to(folder / name) for name in names}
    for name, project in projects.items():
        project.set_params(params_of(name))
    env = {"PYTHONPATH": os.pathsep.join(filter(None, (str(tensors.root / "src"), site)))}
    roots = [str(project.root) for project in projects.values()]
    done = tensors.run(*prefix, sys.executable, "-c", SMALL_LANES, *roots, env=env, timeout=900)
    assert "WARNING" not in done.stderr
    assert done.stdout.count(", portable; models/model.safetensors") == len(names)
    found = {}
    for name, project in projects.items():
        metrics = json.loads((project.root / "metrics/train.json").read_text())
        assert metrics["portable"] is True
        hashes = project.hashes().items()
        found[name] = {path: digest for path, digest in hashes if "data/" not in path}
        refused = (
            (project.root / "models/model.onnx").read_bytes().startswith(b"src/image_pipeline")
        )
        assert refused == (name in NOT_IN_ONNX)
    return found


@pytest.fixture(scope="module")
def on_one_core(
    tensors: Project, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, str]]:
    """Return the hashes of what each network's training leaves on one core of this machine."""
    require(shutil.which("taskset"), "taskset")
    return train(tmp_path_factory.mktemp("narrow"), tensors, TRAINED, ("taskset", "-c", "0"))


def test_eight_claimed_cores_change_no_bit(
    on_one_core: dict[str, dict[str, str]], tensors: Project, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(EIGHT_PROCESSORS)
    assert train(tmp_path, tensors, TRAINED, site=str(site)) == on_one_core


@pytest.mark.parametrize("processor", PROCESSORS)
def test_another_processor_changes_no_bit(
    processor: str, on_one_core: dict[str, dict[str, str]], tensors: Project, tmp_path: Path
) -> None:
    require(shutil.which("qemu-x86_64"), "qemu-x86_64")
    names = PROCESSORS[processor]
    found = train(tmp_path, tensors, names, ("qemu-x86_64", "-cpu", processor))
    assert found == {name: on_one_core[name] for name in names}


def test_killed_and_resumed(tensors: Project, tmp_path: Path) -> None:
    """The one that draws from Python's own dice, too."""
    whole, killed = tensors.copy_to(tmp_path / "whole"), tensors.copy_to(tmp_path / "killed")
    for project in (whole, killed):
        project.set_params(params_of("recurrent") | {"train.epochs": 15})
    whole.stage("train")

    process = subprocess.Popen(
        [sys.executable, "stages/train.py"], cwd=killed.root, env=killed.environment()
    )
    while not list((killed.root / "checkpoints").glob("*.checkpoint")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = killed.stage("train")
    assert "train: going on after epoch " in resumed.stdout
    assert killed.hashes() == whole.hashes()


def test_an_operation_that_is_not_proved_is_named_once(tensors: Project, tmp_path: Path) -> None:
    project = tensors.copy_to(tmp_path / "copy")
    project.set_params(params_of("unproved"))
    done = project.stage("train")
    [line] = [line for line in done.stderr.splitlines() if "WARNING" in line]
    assert "aten.special_airy_ai.default" in line
    assert "layer `layers.0`" in line
    assert "not portable (aten.special_airy_ai.default)" in done.stdout.splitlines()[-1]
    assert json.loads((project.root / "metrics/train.json").read_text())["portable"] is False


def test_one_network_never_retrains_another(undisturbed: tuple[Project, Undisturbed]) -> None:
    project, _ = undisturbed
    models = project.root / "src" / "image_pipeline" / "models"
    with (models / "cnn.py").open("a") as file:
        file.write("# a change\n")
    done = project.run("dvc", "repro")
    assert "Data and pipelines are up to date." in done.stdout

    # A new network, with a block of options that there was not.
    (models / "fresh.py").write_text(f'"""New."""\n{HEAD}{HYBRID}')
    project.commit("a new network")
    new = ("-S", "train.model.name=fresh", "-S", "+train.model.fresh.width=8")
    done = project.run("dvc", "exp", "run", "train", *new)
    assert "Running stage 'train'" in done.stdout

    # Its file changes behind the model's back.
    with (models / "fresh.py").open("a") as file:
        file.write("# a change\n")
    done = project.stage("evaluate", check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "evaluate: error: models/model.safetensors: the network it was trained with, `fresh`, has "
        "changed since or is gone (src/image_pipeline/models/fresh.py); run `dvc repro` to train "
        "anew"
    )
