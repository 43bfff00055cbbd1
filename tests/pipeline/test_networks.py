"""Custom networks, dropped in as one file: they train, resume, and give the same bits.

None of these is part of the project, and each holds layers that no other one here has.
"""

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kill_harness import Undisturbed
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from image_pipeline.numerics.portability import OPERATIONS
from numerics import cases
from project import Project, require, require_emulator

SCRIPT = Path(__file__).with_name("on_one_processor.py")

# Emulated ones, and what they train: without AVX-512, an AMD of 2021 and of Intel's the oldest with
# AVX2; ARM's of 2019 (Graviton 2, Ampere), and of 2020 with longer vectors (Graviton 3). All but
# the last compute every operation, too. Two go through all stages, with the perceptron.
X86_64 = {
    "EPYC-Milan": ("hybrid", "recurrent", "resnet", "efficientnet_lite0"),
    "Haswell": ("hybrid", "cnn", "torchvision_net", "transformed"),
}
ARM = {
    "neoverse-n1": ("hybrid", "cnn", "resnet", "efficientnet_lite0"),
    "neoverse-v1": ("hybrid",),
}
PROCESSORS = X86_64 | ARM
EVERY_STAGE = ("Haswell", "neoverse-n1")
WITHOUT_OPERATIONS = ("neoverse-v1",)
TRAINED = sorted({name for names in PROCESSORS.values() for name in names})
IMAGES = {"train": 80, "validation": 40}  # so few, for the emulator's sake
# Small enough for an emulator, with all that a recipe uses.
OPTIONS: dict[str, dict[str, object]] = {
    "resnet": {"stem_filters": 4, "filters": [8, 12], "window": 6, "mirror": True},
    "efficientnet_lite0": {"pretrained": False},
}
EIGHT_PROCESSORS = """
import os
os.cpu_count = os.process_cpu_count = lambda: 8
os.sched_getaffinity = lambda pid: set(range(8))
"""
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
        "train.batch_size": 40,
        "train.augmentation.horizontal_flip": 0.5,
        "train.augmentation.crop_padding": 2,
        "train.augmentation.cutout": 4,
        "train.augmentation.min_crop_scale": 0.5,
        "train.augmentation.brightness": 0.2,
        "train.augmentation.contrast": 0.2,
    }


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project that has all networks in it, and the tensors to learn from."""
    project = Project(tmp_path_factory.mktemp("networks") / "project")
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


Hashes = dict[str, str]  # of outputs, by their paths


@dataclass(frozen=True)
class Computed:
    """What one process has computed."""

    networks: dict[str, Hashes]  # by the network's name
    operations: list[dict[str, Any]]  # as numerics/cases.py has them
    stages: Hashes


def compute(
    folder: Path,
    tensors: Project,
    names: Sequence[str],
    *,
    python: Sequence[str] = (sys.executable,),
    site: str = "",
    operations: bool = False,
    stages: Project | None = None,
) -> Computed:
    """Train networks in one process, and compute the operations and all stages where asked for."""
    projects = {name: tensors.copy_to(folder / name) for name in names}
    asked = []
    for name, project in projects.items():
        project.set_params(params_of(name))
        asked += ["network", str(project.root)]
    lines = folder / "operations"
    lines.touch()
    if operations:
        asked += ["operations", str(lines)]
    if stages:
        asked += ["stages", str(stages.root)]
    env = {"PYTHONPATH": os.pathsep.join(filter(None, (str(tensors.root / "src"), site)))}
    done = tensors.run(*python, str(SCRIPT), *asked, env=env, timeout=1800)
    assert "WARNING" not in done.stderr
    if stages:
        assert "train: going on after epoch 1 from checkpoints/" in done.stdout
    found = {}
    for name, project in projects.items():
        metrics = json.loads((project.root / "metrics/train.json").read_text())
        assert metrics["portable"] is True
        hashes = project.hashes().items()
        found[name] = {path: digest for path, digest in hashes if "data/" not in path}
        exported = (project.root / "models/model.onnx").read_bytes()
        assert exported.startswith(b"src/image_pipeline") == (name in NOT_IN_ONNX)
    read = [json.loads(line) for line in lines.read_text().splitlines()]
    return Computed(found, read, stages.hashes() if stages else {})


@pytest.fixture(scope="module")
def on_one_core(tensors: Project, tmp_path_factory: pytest.TempPathFactory) -> Computed:
    """Return what one core of this machine computes."""
    require(shutil.which("taskset"), "taskset")
    folder, python = tmp_path_factory.mktemp("narrow"), ("taskset", "-c", "0", sys.executable)
    return compute(folder, tensors, TRAINED, python=python, operations=True)


def test_eight_claimed_cores_change_no_bit(
    on_one_core: Computed, tensors: Project, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(EIGHT_PROCESSORS)
    assert compute(tmp_path, tensors, TRAINED, site=str(site)).networks == on_one_core.networks


@pytest.fixture(scope="module")
def emulated(
    tensors: Project, finished: Project, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Computed]:
    """Return what each emulated processor computes; two at a time, each on its own core."""
    require_emulator()
    arm = Path(os.environ.get("ARM_ENVIRONMENT", "/absent"))
    chosen = [name for name in PROCESSORS if name not in ARM or arm.is_dir()]

    def on(processor: str) -> Computed:
        folder, python, site = tmp_path_factory.mktemp(processor), [sys.executable], ""
        emulator = ["qemu-x86_64", "-cpu", processor]
        if processor in ARM:
            emulator = ["qemu-aarch64", "-L", str(arm / "root"), "-cpu", processor]
            python, site = [str(arm / "root/usr/bin/python3.11")], str(arm / "site")
        stages = finished.copy_without_results(folder / "resumed")
        return compute(
            folder,
            tensors,
            PROCESSORS[processor],
            python=[*emulator, *python],
            site=site,
            operations=processor not in WITHOUT_OPERATIONS,
            stages=stages if processor in EVERY_STAGE else None,
        )

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(chosen, pool.map(on, chosen), strict=True))


@pytest.mark.parametrize("processor", PROCESSORS)
def test_another_processor_trains_the_same_networks(
    processor: str, on_one_core: Computed, emulated: dict[str, Computed]
) -> None:
    require(processor in emulated, "ARM_ENVIRONMENT (see .ci/arm_environment)")
    expected = {name: on_one_core.networks[name] for name in PROCESSORS[processor]}
    assert emulated[processor].networks == expected


@pytest.mark.parametrize("processor", X86_64)
def test_another_processor_computes_the_same_bits(
    processor: str, on_one_core: Computed, emulated: dict[str, Computed]
) -> None:
    assert cases.differences(on_one_core.operations, emulated[processor].operations) == []


def test_arm_computes_the_same_bits_where_the_list_says_so(
    on_one_core: Computed, emulated: dict[str, Computed]
) -> None:
    require("neoverse-n1" in emulated, "ARM_ENVIRONMENT (see .ci/arm_environment)")
    lines = on_one_core.operations
    found = cases.to_list(lines, cases.same_on(lines, emulated["neoverse-n1"].operations))
    assert OPERATIONS.read_text(encoding="utf-8") == found


@pytest.mark.parametrize("processor", EVERY_STAGE)
def test_another_processor_goes_through_all_stages_stopped_and_resumed(
    processor: str, finished: Project, emulated: dict[str, Computed]
) -> None:
    """All that compute: the one that copies is left out."""
    require(processor in emulated, "ARM_ENVIRONMENT (see .ci/arm_environment)")
    assert emulated[processor].stages == finished.hashes()


def test_an_emulated_processor_lacks_avx_512() -> None:
    """Otherwise these tests would prove little: no library may fall back on wider kernels."""
    require_emulator()
    script = "import numpy; print(numpy.__config__.CONFIG['SIMD Extensions'])"
    for processor in X86_64:
        done = subprocess.run(
            ["qemu-x86_64", "-cpu", processor, sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        assert ast.literal_eval(done.stdout)["found"] == ["X86_V3"]  # AVX2 and nothing beyond


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


def test_a_network_with_versions_is_stopped_resumed_and_used(
    tensors: Project, tmp_path: Path
) -> None:
    project = tensors.copy_to(tmp_path / "copy")
    project.set_params(params_of("versioned") | {"train.epochs": 2})
    stopped = project.run(sys.executable, "-c", STOPPED_TRAINING, check=False)
    assert stopped.returncode == 1
    assert not (project.root / "models").exists()
    assert "going on after epoch 1" in project.stage("train").stdout
    project.stage("evaluate")
    exported = project.stage("export").stdout
    assert "predict the same class for 40 of 40 validation images" in exported
    stroke = Image.new("L", (28, 28))
    stroke.paste(255, (13, 4, 16, 24))
    stroke.save(tmp_path / "one.png")
    done = project.run(
        sys.executable, "-m", "image_pipeline", "predict", str(tmp_path / "one.png"), "--csv"
    )
    assert len(done.stdout.splitlines()) == 2


def test_an_operation_that_is_not_proved_is_named_once(tensors: Project, tmp_path: Path) -> None:
    project = tensors.copy_to(tmp_path / "copy")
    project.set_params(params_of("unproved"))
    done = project.stage("train")
    [line] = [line for line in done.stderr.splitlines() if "WARNING" in line]
    assert "aten.logit.default" in line
    assert "layer `layers.0`" in line
    assert "not portable (aten.logit.default)" in done.stdout.splitlines()[-1]
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
        "evaluate: error: models/model.safetensors: its network, `fresh`, has been changed or "
        "removed since training (src/image_pipeline/models/fresh.py); run `dvc repro` to retrain"
    )
