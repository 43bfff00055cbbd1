"""The receipt of a training: two runs that part by one bit are told apart where they do."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from image_pipeline.experiments.receipts import first_divergence, input_differences, read_receipt
from image_pipeline.serialization import write_json
from image_pipeline.training.checkpoint import CheckpointFile
from image_pipeline.training.loader import MicroBatch
from image_pipeline.training.receipt import Receipt, hash_tensors
from image_pipeline.training.train import Trainer
from toy import KEY, make_trainer, train

Sabotage = Callable[[Trainer, pytest.MonkeyPatch], object]


def flip(tensor: Tensor) -> Tensor:
    """Flip the last bit of a tensor's first value, in place."""
    with torch.no_grad():
        tensor.view(torch.int32).view(-1)[0] ^= 1
    return tensor


def first_weight(run: Trainer) -> Tensor:
    return run.state.model.get_parameter("layers.0.weight")


def epoch_3(run: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    validate = run.validate

    def spoil_and_validate(epoch: int) -> tuple[float, float]:
        if epoch == 3:
            flip(first_weight(run))
        return validate(epoch)

    monkeypatch.setattr(run, "validate", spoil_and_validate)


def gelu(_run: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    real = functional.gelu
    monkeypatch.setattr(functional, "gelu", lambda x, **options: flip(real(x, **options)))


def optimizer(run: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    step = run.state.step
    monkeypatch.setattr(run.state, "step", lambda: (step(), flip(first_weight(run))))


def loss(run: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    real = run.loss
    monkeypatch.setattr(run, "loss", lambda *given: flip(real(*given)))


STEP = "train, epoch 1, step 1: the"
FIRST = "is the first tensor that differs"


@pytest.mark.parametrize(
    ("sabotage", "said"),
    [
        (lambda *_: None, None),
        (
            lambda run, _: flip(run.state.model.get_parameter("layers.0.bias")),
            f"train: the initial `layers.0.bias` {FIRST}; 1 of 9 before it are the same",
        ),
        # Before it: the input, the target, the convolution and batch norm.
        (gelu, f"{STEP} output of the layer `layers.2` {FIRST}; 4 of 26 before it are the same"),
        (loss, f"{STEP} loss {FIRST}; 10 of 26 before it are the same"),
        (
            lambda run, _: first_weight(run).register_hook(flip),
            f"{STEP} gradient of `layers.0.weight` {FIRST}; 16 of 26 before it are the same",
        ),
        (optimizer, f"{STEP} updated `layers.0.weight` {FIRST}; 17 of 26 before it are the same"),
        (
            epoch_3,
            "train, epoch 3: the weights at its end are the first that differ; "
            "2 of 4 before it are the same",
        ),
    ],
    ids=["nothing", "initial", "forward", "loss", "backward", "optimizer", "epoch 3"],
)
def test_the_first_bit_that_differs_is_named(
    sabotage: Sabotage,
    said: str | None,
    own_network: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = tmp_path / "data"
    data.write_bytes(b"images")
    receipts = []
    for name in ("plain", "other"):
        run = make_trainer(model=own_network, cores=1)
        if name == "other":
            sabotage(run, monkeypatch)
        train(run, CheckpointFile(tmp_path / name, KEY))
        path = tmp_path / f"{name}.json"
        write_json(path, run.state.receipt.as_dict(run.params, [data]))
        receipts.append(read_receipt(name, path.read_bytes()))
    own, other = receipts
    assert first_divergence(own, other) == said
    assert (own == other) == (said is None)
    assert not list(input_differences(own, other, {}))


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> None:
        """Return no tensor."""


class Odd(nn.Module):
    """A layer that runs twice, one with several results, and one with none that is a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.lstm, self.none = nn.ReLU(), nn.LSTM(2, 3), Nothing()

    def forward(self, x: Tensor) -> Tensor:
        self.none(x)
        result: Tensor = self.lstm(self.twice(self.twice(x)))[0]
        return result


def test_what_is_recorded_of_a_forward_pass() -> None:
    network, images, labels = Odd(), torch.rand(4, 2), torch.arange(4)
    receipt = Receipt(network)
    with receipt.record_forward(MicroBatch(0, images, labels, 0)):
        logits = network(images)
    network(images)  # no longer
    names, hashes = zip(*(line.split(": ") for line in receipt.first_step), strict=True)
    of_layer = "output of the layer"
    assert names == (
        *("input", "target", f"{of_layer} `twice`", f"{of_layer} `twice`, call 2"),
        *(f"{of_layer} `lstm`", "output of the network"),
    )
    assert hashes[0] == hashes[2] == hashes[3] == hash_tensors([images])
    assert hashes[4] == hash_tensors([logits, *network.lstm(images)[1]])
    assert hashes[5] == hash_tensors([logits])


def test_a_hash_is_that_of_the_values_in_any_layout() -> None:
    x = torch.tensor([[[[1.0, -0.0]], [[0.0, 3.0]]]])
    expected = hashlib.sha256(b"torch.float32 (1, 2, 1, 2) " + x.numpy().tobytes()).hexdigest()
    same = (x, x.to(memory_format=torch.channels_last), x.to_sparse())
    assert {hash_tensors([each]) for each in same[:2]} == {expected[:16]}
    assert hash_tensors([x.to_sparse()]) == hash_tensors([x + 0])
    other = (x.abs(), x.flatten(), x.double(), x.view(torch.int32))
    assert len({hash_tensors([each]) for each in (x, *other)}) == 5
    conjugate = torch.tensor([1 + 2j]).conj()
    assert hash_tensors([conjugate]) == hash_tensors([torch.tensor([1 - 2j])])


def test_the_file_holds_lists_alone_which_dvc_does_not_show(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_bytes(b"images")
    params = make_trainer(learning_rate=1e-7).params  # not rounded to 0
    content = Receipt(nn.Linear(2, 3)).as_dict(params, [data])
    write_json(tmp_path / "receipt.json", content)
    found = json.loads((tmp_path / "receipt.json").read_bytes())
    assert all(isinstance(value, list) for value in found.values())
    assert "train.learning_rate: 1e-07" in found["params"]
    assert found["inputs"] == [f"{data.as_posix()}: {hashlib.sha256(b'images').hexdigest()[:16]}"]
