"""The ONNX file: it agrees with PyTorch, and has the same bytes in every process."""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from image_pipeline import models
from image_pipeline.common.errors import ExportError
from image_pipeline.exporting import check
from image_pipeline.exporting.check import compare, open_session
from image_pipeline.exporting.onnx_file import build_metadata, to_onnx
from image_pipeline.exporting.provenance import get_provenance
from image_pipeline.modeling import networks
from image_pipeline.modeling.model_card import ModelCard, WeightsProvenance
from image_pipeline.modeling.model_file import read_model, write_model
from image_pipeline.tensors.tensor_files import DatasetInfo, Split
from project import ROOT, run
from refusals import said_by

NAMES = ("zéro", "one", "two", "three", "four")
# A custom network with lazy and depthwise convolution, batch and layer norm, GELU, attention,
# dropout, recurrence, and a branch that depends on the image size only.
CUSTOM = """
import torch
from torch import Tensor, nn
from torch.nn import functional


class Model(nn.Module):
    def __init__(self, shape, classes) -> None:
        super().__init__()
        self.stem = nn.LazyConv2d(16, 4, 4)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.norm = nn.BatchNorm2d(16)
        self.before = nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 2, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, activation="gelu", batch_first=True)
        self.rows = nn.GRU(16, 12, batch_first=True, bidirectional=True)
        self.drop = nn.Dropout(0.2)
        self.head = nn.LazyLinear(classes)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[2] > 64:
            images = functional.avg_pool2d(images, 2)
        x = functional.gelu(self.norm(self.depthwise(self.stem(images))))
        x = x.flatten(2).transpose(1, 2)
        y = self.before(x)
        x = self.encoder(x + self.attention(y, y, y, need_weights=False)[0])
        return self.head(self.drop(self.rows(x)[0].mean(1)))
"""
# Networks with their options and input shapes.
NETWORKS: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "mlp": ({"hidden_sizes": [20, 12]}, (1, 28, 28)),
    "cnn": ({"filters": [4, 8], "hidden_sizes": [12]}, (1, 28, 28)),
    "resnet": ({"stem_filters": 8, "filters": [8, 16], "mirror": True}, (3, 32, 32)),
    "custom": ({}, (1, 20, 28)),
}


@pytest.fixture(autouse=True)
def _no_fused_attention() -> Iterator[None]:
    """Switch off fused attention, as `numerics.pin` does."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(before)


@pytest.fixture
def custom_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Add a custom network to the networks; return its file."""
    folder = tmp_path / "models"
    folder.mkdir()
    for path in networks.FOLDER.glob("*.py"):
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "custom.py").write_text(CUSTOM)
    monkeypatch.setattr(networks, "FOLDER", folder)
    monkeypatch.setattr(models, "__path__", [str(folder)])
    yield folder / "custom.py"
    sys.modules.pop("image_pipeline.models.custom", None)


@pytest.fixture
def _silent(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Fail where the exporter prints its graph, or ONNX Runtime its errors."""
    yield
    assert capfd.readouterr() == ("", "")


def write_network(path: Path, forward: str, init: str = "pass") -> None:
    """Write a custom network: the bodies of its two functions."""
    body = forward.replace("\n", "\n        ")
    path.write_text(
        "import torch\nfrom torch import nn\n\n\n"
        "class Model(nn.Module):\n"
        "    def __init__(self, shape, classes):\n"
        f"        super().__init__()\n        {init}\n\n"
        f"    def forward(self, images):\n        {body}\n"
    )


def write_and_read(path: Path, name: str) -> tuple[nn.Module, ModelCard]:
    """Write a network with random weights and statistics to a model file; return it as read."""
    options, shape = NETWORKS[name]
    torch.manual_seed(0)
    model = networks.build(name, options, shape, len(NAMES))
    for buffer, tensor in model.named_buffers():
        if buffer.endswith(("running_mean", "running_var")):
            tensor.uniform_(0.5, 1.5)
    statistics = (tuple(0.1 * (n + 1) for n in range(shape[0])),) * 2
    card = ModelCard(
        network=name,
        source=networks.source_hash(name),
        input_shape=shape,
        data=DatasetInfo("mnist", NAMES, *statistics),
        augmentation={},
        options=options,
    )
    write_model(path, model, card)
    return read_model(path)


def random_split(card: ModelCard, count: int) -> Split:
    images = torch.randint(0, 256, (count, *card.input_shape), dtype=torch.uint8)
    return Split(images, torch.zeros(count, dtype=torch.int64), card.data)


@pytest.mark.usefixtures("custom_network")
@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_runtime_agrees_with_pytorch(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, card = write_and_read(tmp_path / "model.safetensors", name)
    exported = to_onnx(model, card, {})
    monkeypatch.setattr(check, "MAX_IMAGES", 64)
    found = compare(exported, model, card, random_split(card, 150))  # every third, one batch
    assert found.images == found.same_class == 50
    assert found.max_difference < 1e-5
    session = open_session(exported)
    images = random_split(card, 7).images.numpy()
    [batch] = session.run(None, {"images": images})
    [alone] = session.run(None, {"images": images[3:4]})
    assert batch.shape == (7, len(NAMES))
    assert batch.dtype == np.float32
    assert np.abs(batch.sum(axis=1) - 1).max() < 1e-6
    assert np.abs(batch[3] - alone[0]).max() < 1e-6
    assert np.ptp(batch, axis=0).max() > 1e-3  # the output depends on the image


def test_metadata_and_interface_of_the_file(tmp_path: Path) -> None:
    model, card = write_and_read(tmp_path / "model.safetensors", "mlp")
    metadata = build_metadata(card, get_provenance("mnist"), "cc-by-sa-3.0", "ab" * 32)
    content = to_onnx(model, card, metadata)
    proto = onnx.load_model_from_string(content)
    session = open_session(content)
    stored = session.get_modelmeta().custom_metadata_map
    assert stored == metadata
    assert json.loads(stored["class_names"]) == list(NAMES)
    assert (stored["license"], stored["model_sha256"]) == ("cc-by-sa-3.0", "ab" * 32)
    assert stored["input"].startswith("images: uint8 [batch, 1, 28, 28], grey, ")
    [images], [probabilities] = session.get_inputs(), session.get_outputs()
    found = (images.name, images.type, images.shape)
    assert found == ("images", "tensor(uint8)", ["batch", 1, 28, 28])
    assert (probabilities.name, probabilities.shape) == ("probabilities", ["batch", 5])
    assert not proto.producer_version
    for secret in (str(ROOT), str(tmp_path), torch.__version__, ".py"):
        assert secret.encode() not in content

    weights = WeightsProvenance("w.pth", "https://a.org", "mit", "cd" * 32)
    other = build_metadata(replace(card, weights=weights), get_provenance("mnist"), "other", "")
    assert other["initial_weights"] == "w.pth, licence mit"
    assert "initial_weights" not in metadata


IN_A_PROCESS = """
import hashlib, sys
from pathlib import Path
from typing import Any
from image_pipeline import numerics
numerics.pin("portable")
from image_pipeline import models
from image_pipeline.modeling import networks
networks.FOLDER = Path(sys.argv[1])
models.__path__ = [sys.argv[1]]
from image_pipeline.exporting.onnx_file import to_onnx
from image_pipeline.modeling.model_file import read_model
for path in sys.argv[2:]:
    print(hashlib.sha256(to_onnx(*read_model(Path(path)), {"b": "2", "a": "1"})).hexdigest())
"""


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(custom_network: Path, tmp_path: Path) -> None:
    """In another order, from another folder, with another hash seed."""
    files = [tmp_path / f"{name}.safetensors" for name in ("resnet", "custom")]
    for path in files:
        write_and_read(path, path.stem)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    found = []
    for seed, cwd, paths in (("1", tmp_path, files), ("77", elsewhere, files[::-1])):
        env = {**os.environ, "PYTHONHASHSEED": seed, "TZ": "Pacific/Kiritimati"}
        arguments = (custom_network.parent, *paths)
        done = run(sys.executable, "-c", IN_A_PROCESS, *arguments, cwd=cwd, env=env)
        assert done.stderr == ""
        found.append(done.stdout.split())
    assert found[0] == found[1][::-1]
    assert len(set(found[0])) == 2


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (
            "torch.linalg.svdvals(images[:, 0])[:, :5]",
            ": ONNX has no operation for PyTorch's `aten::linalg_svdvals`",
        ),
        (
            "images.flatten(1)[:, :5] * (1 if images.mean() > 0 else 2)",
            ", line 11: its control flow depends on pixel values",
        ),
    ],
)
@pytest.mark.usefixtures("_silent")
def test_a_network_that_cannot_be_exported_is_named_with_the_reason(
    forward: str, reason: str, custom_network: Path, tmp_path: Path
) -> None:
    write_network(custom_network, f"return {forward}")
    said = said_by(ExportError, to_onnx, *write_and_read(tmp_path / "m", "custom"), {})
    assert said.startswith(f"src/image_pipeline/models/custom.py{reason}")
    assert "set export.onnx to false in params.yaml" in said


def comparison(tmp_path: Path, count: int) -> str:
    """Return why the ONNX file of the custom network does not agree on so many images."""
    model, card = write_and_read(tmp_path / "m", "custom")
    exported = to_onnx(model, card, {})
    return said_by(ExportError, compare, exported, model, card, random_split(card, count))


# A capsule network's usual ways to repeat what it has learned for each image, and others.
FIXED = {
    "a list of that length": "torch.cat([self.start] * images.shape[0])",
    "a loop over images": "torch.stack([image.sum() * self.start[0] for image in images])",
    "the number itself": "self.start.expand(len(images), 5)",
    "a tensor of that size": "images.new(images.shape[0], 5).fill_(1.0)",
}


@pytest.mark.parametrize("states", FIXED.values(), ids=FIXED)
@pytest.mark.parametrize("count", [10, 3])  # 3 is the number that the network was traced with
@pytest.mark.usefixtures("_silent")
def test_a_network_that_fixes_the_number_of_images_is_named_with_the_line(
    states: str, count: int, custom_network: Path, tmp_path: Path
) -> None:
    forward = f"logits = images.flatten(1)[:, :5]\nstates = {states}\nreturn logits + states"
    write_network(custom_network, forward, "self.start = nn.Parameter(torch.zeros(1, 5))")
    said = comparison(tmp_path, count)
    assert said.startswith(
        "src/image_pipeline/models/custom.py, line 12: the number of images is a constant here, so "
        "that the ONNX file runs on batches of 3 only; "
    )
    assert "`x.shape[0]`" in said
    assert "set export.onnx to false in params.yaml" in said


def test_a_network_that_fails_on_one_image_is_named(custom_network: Path, tmp_path: Path) -> None:
    """Squeezed, the only image is taken for a dimension of no use."""
    squeezed = "images[:, :, 0, :5].squeeze().transpose(0, 1).transpose(0, 1)"
    write_network(custom_network, f"return {squeezed}")
    assert comparison(tmp_path, 10).startswith(
        "src/image_pipeline/models/custom.py: its ONNX file does not run on a batch of 1 ("
    )


def test_a_file_that_disagrees_with_pytorch_is_refused(tmp_path: Path) -> None:
    model, card = write_and_read(tmp_path / "model.safetensors", "mlp")
    exported = to_onnx(model, card, {})
    with torch.no_grad():
        model.get_parameter("output.bias")[0] += 1
    with pytest.raises(ExportError, match="the ONNX file does not compute this network"):
        compare(exported, model, card, random_split(card, 10))
