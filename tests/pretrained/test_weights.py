"""Files of weights: what is read of them, and what is refused."""

import json
import os
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from image_pipeline.common.errors import DataError
from image_pipeline.pretrained.weights import (
    PretrainedWeights,
    read_manifest,
    read_state_dict,
    write_manifest,
)
from refusals import refusal

STATE = {"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.tensor([1.0, -1.0])}


class Code:
    """What runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def assert_is_state(found: dict[str, torch.Tensor]) -> None:
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in STATE.items())


@pytest.mark.parametrize(
    "saved",
    [
        OrderedDict(STATE),
        {"epoch": 90, "best": 0.7, "state_dict": STATE},  # as PyTorch's ImageNet example saves it
        {"state_dict": {f"module.{name}": tensor for name, tensor in STATE.items()}},
    ],
    ids=["state dict", "checkpoint", "data parallel"],
)
def test_what_torch_saves(saved: object, tmp_path: Path) -> None:
    torch.save(saved, tmp_path / "w.pth")
    assert_is_state(read_state_dict(tmp_path / "w.pth"))


def test_safetensors_and_the_format_before_torch_1_6(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "w.safetensors")
    assert_is_state(read_state_dict(tmp_path / "w.safetensors"))
    torch.save(STATE, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert_is_state(read_state_dict(tmp_path / "w.pth"))


OBJECTS = (
    "it holds objects or code, not weights alone, and is not loaded; save the network's "
    "state_dict(), best as .safetensors"
)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_not_run(zipped: bool, tmp_path: Path) -> None:
    path, trace = tmp_path / "w.pth", tmp_path / "it_ran"
    hidden = {**STATE, "conv.bias": Code(f"touch {trace}")}
    torch.save(hidden, path, _use_new_zipfile_serialization=zipped)
    assert refusal(path, read_state_dict) == OBJECTS
    assert not trace.exists()


@pytest.mark.parametrize(
    ("saved", "said"),
    [
        (torch.nn.Linear(2, 3), OBJECTS),
        ([1, 2], "no state dict (layers' names and tensors); save model.state_dict()"),
        ({}, "it holds no weights"),
    ],
)
def test_what_is_no_state_dict(saved: object, said: str, tmp_path: Path) -> None:
    torch.save(saved, tmp_path / "w.pth")
    assert refusal(tmp_path / "w.pth", read_state_dict) == said


@pytest.mark.parametrize("kind", ["w.pth", "old.pth", "w.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_file(kind: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / kind
    large = {"weight": torch.zeros(200, 200)}
    if kind.endswith(".pth"):
        torch.save(large, path, _use_new_zipfile_serialization=kind == "w.pth")
    else:
        save_file(large, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    message = refusal(path, read_state_dict)
    assert message.startswith("not a whole file of weights (")
    assert message.endswith("); get it again")


def test_a_missing_file(tmp_path: Path) -> None:
    for name in ("w.pth", "w.safetensors"):
        said = refusal(tmp_path / name, read_state_dict)
        assert said == "not found; run `dvc repro --force weights`"


def test_the_manifest_comes_back_with_the_files_sha256(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"weights.json: not found; run `dvc repro weights`$"):
        read_manifest(tmp_path)
    write_manifest(tmp_path, None)
    assert read_manifest(tmp_path) is None
    (tmp_path / "w.pth").write_bytes(b"abc")
    weights = PretrainedWeights(
        "a network", "w.pth", "ba7816bf", "https://a.org", "mit", (0.5,), (0.25,), ("https://b",), 8
    )
    write_manifest(tmp_path, weights)
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # NIST's, of `abc`
    # Where it came from is no property of the file.
    assert read_manifest(tmp_path) == replace(weights, sha256=digest, mirrors=())
    path = tmp_path / "weights.json"
    unknown_key = json.dumps({**json.loads(path.read_text()), "other": 1})
    for damaged in ("{", "[]", unknown_key, '{"mean": []}'):
        path.write_text(damaged)
        with pytest.raises(DataError, match=r"weights.json: not valid .*--force weights`$"):
            read_manifest(tmp_path)
