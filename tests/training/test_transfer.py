"""Transfer learning: which layers learn, when and how fast; and features that are computed once."""

import errno
import math
import operator
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from image_pipeline.common.errors import ParamsError
from image_pipeline.modeling.inference import predict
from image_pipeline.models import mlp
from image_pipeline.numerics import portability
from image_pipeline.pretrained.weights import PretrainedWeights
from image_pipeline.training import features
from image_pipeline.training import train as train_module
from image_pipeline.training.checkpoint import CheckpointFile
from image_pipeline.training.initial_weights import InitialWeights
from image_pipeline.training.train import Trainer
from project import child_processes
from refusals import said_by
from toy import FLAT, KEY, bits, choice, result, train
from toy import make_trainer as make_toy

FLIPPED = {**FLAT, "horizontal_flip": 0.5}
SGD = {"optimizer": choice("SGD"), "lr_schedule": choice("constant")}


class Network(nn.Module):
    """A backbone with batch norm and a random layer, and a head."""

    def __init__(
        self, shape: tuple[int, int, int], classes: int, *, scale: float = 1.0, tanh: bool = False
    ) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(shape[0], 4, 3),
            nn.BatchNorm2d(4),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(48, 5),
            nn.Dropout(0.3),
        )
        self.head = nn.Linear(5, classes)
        self.scale, self.tanh = scale, tanh

    def forward(self, images: Tensor) -> Tensor:
        values = self.backbone(images)
        logits: Tensor = self.head(values.tanh() if self.tanh else values)
        return logits if self.scale == 1 else logits * self.scale


@pytest.fixture(autouse=True)
def small(small_microbatches: None, one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    """Let `Network` be chosen; a batch of 8 has 4 micro-batches, and so have its features."""
    monkeypatch.setattr(mlp, "Model", Network)
    for module in (features, train_module):
        monkeypatch.setattr(module, "BATCH_IMAGES", 2)


def pretrained(folder: Path) -> InitialWeights:
    """Return weights that others have trained, with batch norm's statistics."""
    torch.manual_seed(9)
    network = Network((1, 5, 6), 7)
    network(torch.randn(64, 1, 5, 6))
    folder.mkdir(exist_ok=True)
    path = folder / "others.safetensors"
    save_file(network.state_dict(), path)
    info = PretrainedWeights("others", path.name, "0" * 64, "", "mit", (0.4,), (0.3,))
    return InitialWeights(info, path)


MakeTrainer = Callable[..., Trainer]


@pytest.fixture
def make_trainer(tmp_path: Path) -> MakeTrainer:
    weights = pretrained(tmp_path / "weights")

    def make(transfer: str = "frozen", cores: int = 1, **changes: Any) -> Trainer:
        settings: dict[str, Any] = {
            "transfer": choice(transfer, **changes.pop("options", {})),
            "model": choice("mlp", **changes.pop("network", {})),
            "augmentation": FLAT,
            "learning_rate": 0.05,
            "cores": cores,
            "weights": weights,
        }
        return make_toy(**settings | changes)

    return make


def changed(before: dict[str, bytes], run: Trainer) -> set[str]:
    after = bits(run)
    return {name for name in before if before[name] != after[name]}


HEAD = {"head.weight", "head.bias"}
STATISTICS = {
    f"backbone.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")
}


@pytest.mark.parametrize("augmentation", [FLAT, FLIPPED], ids=["features", "each epoch"])
@pytest.mark.parametrize("network", [{}, {"scale": 0.5}], ids=["head", "scaled"])
def test_frozen_changes_the_head_alone(
    augmentation: dict[str, Any],
    network: dict[str, Any],
    make_trainer: MakeTrainer,
    checkpoint: CheckpointFile,
) -> None:
    run = make_trainer(augmentation=augmentation, network=network)
    before = bits(run)
    assert changed(before, train(run, checkpoint)) == HEAD
    assert (run.features is not None) == (augmentation is FLAT and not network)
    # The last validation is that of the model that is written, to the bit.
    losses = [
        nn.functional.cross_entropy(logits.double(), labels, reduction="sum").item()
        for logits, labels in predict(
            run.state.model, run.validation_split, run.train_split.info, 2
        )
    ]
    assert run.state.history[-1].validation_loss == math.fsum(losses) / 9
    assert run.unverified_ops == {}


def test_the_head_learns_what_it_would_in_an_ordinary_loop(
    make_trainer: MakeTrainer, checkpoint: CheckpointFile
) -> None:
    """One step on all images: features of the whole network, cross-entropy's mean, SGD."""
    run = make_trainer(epochs=1, batch_size=30, **SGD)
    model: Any = run.state.model
    weight, bias = model.head.weight.detach().clone(), model.head.bias.detach().clone()
    normalised = (run.train_split.images / 255 - 0.4) / 0.3  # as the weights' own images were
    with torch.no_grad():
        values = model.eval().backbone(normalised.float())
    probabilities = (values @ weight.T + bias).softmax(1)
    gradient = probabilities - nn.functional.one_hot(run.train_split.labels, 3)
    train(run, checkpoint)
    assert torch.allclose(model.head.weight, weight - 0.05 * gradient.T @ values / 30, atol=1e-6)
    assert torch.allclose(model.head.bias, bias - 0.05 * gradient.mean(0), atol=1e-6)


@pytest.mark.parametrize(
    ("transfer", "options"), [("frozen", {}), ("fine_tune", {"frozen_epochs": 2})]
)
@pytest.mark.parametrize("augmentation", [FLAT, FLIPPED], ids=["features", "each epoch"])
def test_neither_processes_nor_an_interruption_change_a_bit(
    transfer: str,
    options: dict[str, Any],
    augmentation: dict[str, Any],
    make_trainer: MakeTrainer,
    tmp_path: Path,
) -> None:
    changes = {"augmentation": augmentation, "options": options}
    results = []
    for cores in (1, 2, 3, 8):
        run = make_trainer(transfer, cores, **changes)
        checkpoint = CheckpointFile(tmp_path / f"on {cores} cores", KEY)
        counts = [len(child_processes()) for _ in run.train(checkpoint)]
        assert counts == [min(cores, 4) - 1] * 4
        results.append(result(run))
    for stop in (1, 2, 3):
        checkpoint = CheckpointFile(tmp_path / f"stopped after {stop}", KEY)
        train(make_trainer(transfer, **changes), checkpoint, stop)
        resumed = make_trainer(transfer, **changes)
        assert [len(history) for history in resumed.train(checkpoint)] == [*range(stop + 1, 5)]
        results.append(result(resumed))
    assert all(each == results[0] for each in results)


def computed(run: Trainer, checkpoint: CheckpointFile, monkeypatch: pytest.MonkeyPatch) -> int:
    """Train; return how many batches of features were computed, but for the check of the first."""
    count = 0

    class Counted(features.FrozenFeatures):
        def _compute(self, batch: int) -> None:
            nonlocal count
            count += 1
            super()._compute(batch)

    monkeypatch.setattr(train_module, "FrozenFeatures", Counted)
    train(run, checkpoint)
    checkpoint.remove()  # as the stage does
    return count - 1


ALL = 15 + 5  # batches of 30 and of 9 images, two each


def feature_files(checkpoint: CheckpointFile) -> list[Path]:
    return sorted((checkpoint.folder / "features").iterdir())


def test_the_next_run_finds_the_features(
    make_trainer: MakeTrainer, checkpoint: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only other images, weights or numerics have other ones."""
    assert computed(make_trainer(), checkpoint, monkeypatch) == ALL
    [path] = feature_files(checkpoint)
    for changes in ({"seed": 1}, {"learning_rate": 0.3, "epochs": 2}, {"batch_size": 5}):
        assert computed(make_trainer(**changes), checkpoint, monkeypatch) == 0
    assert computed(make_trainer("fine_tune"), checkpoint, monkeypatch) == 0
    assert feature_files(checkpoint) == [path]
    other_images, other_weights = make_trainer(), make_trainer()
    other_images.validation_split.images[8, 0, 4, 5] += 1
    other_weights.state.model.get_buffer("backbone.1.running_var")[0] += 1
    for run in (other_images, other_weights, make_trainer(numerics="fast"), make_trainer()):
        assert computed(run, checkpoint, monkeypatch) == ALL
    assert len(feature_files(checkpoint)) == features.KEPT == 3


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_damaged_features_are_computed_again(
    damage: str,
    make_trainer: MakeTrainer,
    checkpoint: CheckpointFile,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    whole = make_trainer()
    computed(whole, checkpoint, monkeypatch)
    [path] = feature_files(checkpoint)
    content = path.read_bytes()
    assert len(content) == 32 + 4 * ALL * 2 * 5  # a digest; batches of two images, five features
    flipped = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
    path.write_bytes({"flip": flipped, "cut": content[:-1], "empty": b""}[damage])
    again = make_trainer()
    assert computed(again, checkpoint, monkeypatch) == ALL
    assert f"WARNING: {path}: these features are damaged; they are comp" in capfd.readouterr().err
    assert path.read_bytes() == content
    assert result(again) == result(whole)


def test_a_run_that_is_killed_while_it_computes_them_leaves_no_features(
    make_trainer: MakeTrainer, checkpoint: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(run: features.FrozenFeatures) -> None:
        run._unlock()  # as the system does for a process that ends
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(features.FrozenFeatures, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            train(make_trainer(), checkpoint)
    [partial] = feature_files(checkpoint)
    assert partial.suffix == ".partial"
    assert computed(make_trainer(), checkpoint, monkeypatch) == ALL
    [path] = feature_files(checkpoint)
    assert path.suffix == ".features"


def test_two_runs_at_once_do_not_wait_for_each_other(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both compute the features, and the one that began first writes the file."""
    one, other = make_trainer(), make_trainer(cores=2)
    first = CheckpointFile(tmp_path, KEY)
    features_of_one = one.frozen_features(tmp_path)
    assert computed(other, CheckpointFile(tmp_path, "l" * 64), monkeypatch) >= ALL // 2
    [partial] = feature_files(first)
    assert partial.suffix == ".partial"
    assert features_of_one
    features_of_one._unlock()
    train(one, first)
    assert [path.suffix for path in feature_files(first)] == [".features"]
    assert result(one) == result(other)


def test_a_full_disk_is_noticed_before_anything_is_computed(
    make_trainer: MakeTrainer, checkpoint: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"No space left on device: .*\.features'"):
        next(make_trainer().train(checkpoint))
    assert feature_files(checkpoint) == []


def test_a_run_on_dvcs_queue_keeps_the_features_in_the_projects_own_folder(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = tmp_path / "project" / ".dvc" / "tmp" / "exps" / "run"
    queue.mkdir(parents=True)
    monkeypatch.chdir(queue)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))
    train(make_trainer(), CheckpointFile(Path("checkpoints"), KEY))
    [path] = (tmp_path / "project" / "checkpoints" / "features").iterdir()
    assert path.suffix == ".features"


def test_fine_tuning_begins_with_the_head_and_keeps_batch_norms_statistics(
    make_trainer: MakeTrainer, checkpoint: CheckpointFile
) -> None:
    run = make_trainer("fine_tune", options={"frozen_epochs": 2}, augmentation=FLIPPED)
    before = bits(run)
    found = [changed(before, run) for _ in run.train(checkpoint)]
    assert found == [HEAD, HEAD, *[before.keys() - STATISTICS] * 2]


@pytest.mark.parametrize(
    "schedule", [choice("constant"), choice("one_cycle", warmup_fraction=0.25)]
)
def test_a_backbone_learns_at_its_share_of_the_learning_rate(
    schedule: dict[str, Any], make_trainer: MakeTrainer
) -> None:
    options = {"backbone_learning_rate": 0.5}
    run = make_trainer("fine_tune", options=options, lr_schedule=schedule)
    backbone, head = run.state.optimizer.param_groups
    for group, layers in ((backbone, "backbone"), (head, "head")):
        expected = list(run.state.model.get_submodule(layers).parameters())
        assert all(map(operator.is_, group["params"], expected))
        assert len(group["params"]) == len(expected)
    rates = []
    for _ in range(4 * 4 - 1):  # steps
        rates.append((backbone["lr"], head["lr"]))
        run.state.optimizer.step()
        run.state.lr_schedule.step()
    assert max(rates) == pytest.approx((0.025, 0.05))
    assert all(rate == pytest.approx(0.5 * of_head) for rate, of_head in rates)


def test_operations_are_looked_up_whoever_computed_the_features(
    make_trainer: MakeTrainer, checkpoint: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And those of a backbone's backward pass when it begins to learn."""
    verified = portability.read_verified_ops()
    verified.pop("aten.tanh.default")
    verified.pop("aten.native_batch_norm_backward.default")
    monkeypatch.setattr(portability, "read_verified_ops", lambda: verified)
    for count in (ALL, 0):
        run = make_trainer(network={"tanh": True})
        assert computed(run, checkpoint, monkeypatch) == count
        assert [*run.unverified_ops] == ["aten.tanh.default"]
    run = make_trainer("fine_tune", network={"tanh": True})
    train(run, checkpoint)
    assert [*run.unverified_ops] == ["aten.tanh.default", "aten.native_batch_norm_backward.default"]


@pytest.mark.parametrize(
    ("transfer", "options", "said"),
    [
        ("freeze", {}, "name: 'freeze' is not allowed: it must be none or frozen "),
        (
            "fine_tune",
            {"frozen_epochs": 5},
            "fine_tune.frozen_epochs: 5 is above train.epochs, which is 4; lower it",
        ),
        (
            "fine_tune",
            {"backbone_learning_rate": 0},
            "fine_tune.backbone_learning_rate: 0 is not allowed: input should be g",
        ),
    ],
)
def test_mistakes_end_in_one_line(
    transfer: str, options: dict[str, Any], said: str, make_trainer: MakeTrainer
) -> None:
    message = said_by(ParamsError, make_trainer, transfer, options=options)
    assert message.startswith(f"params.yaml: train.transfer.{said}")


def test_random_weights_are_not_kept(make_trainer: MakeTrainer) -> None:
    assert said_by(ParamsError, make_trainer, weights=None).startswith(
        "params.yaml: train.transfer.name: frozen would keep random weights as they are; set "
        "train.model.m"
    )


@pytest.mark.parametrize("transfer", ["frozen", "fine_tune"])
def test_a_network_without_a_head_is_refused(
    transfer: str, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def headless(shape: tuple[int, int, int], classes: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(shape[0], classes, shape[1:]), nn.Flatten())

    monkeypatch.setattr(mlp, "Model", headless)
    assert said_by(ParamsError, make_trainer, transfer, weights=None).startswith(
        f"params.yaml: train.transfer.name: {transfer} needs a network whose last layer, nn.Linear "
    )
