"""The training loop: what is learnt from, how fast, and that an interruption changes nothing."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from image_pipeline.augmenting.params import AUGMENTATION_AMOUNTS
from image_pipeline.common.errors import DivergenceError, ParamsError
from image_pipeline.common.params import read_params
from image_pipeline.modeling import networks
from image_pipeline.modeling.inference import predict
from image_pipeline.models import mlp
from image_pipeline.tensors.tensor_files import DatasetInfo, Split
from image_pipeline.training import batches as batches_module
from image_pipeline.training import lanes
from image_pipeline.training import loop as training
from image_pipeline.training.checkpoint import CheckpointFile
from image_pipeline.training.loop import Training
from image_pipeline.training.params import TrainParams
from project import ROOT, child_processes

DESCRIPTION = DatasetInfo("toy", ("a", "b", "c"), (0.5,), (0.29,))
COMMITTED = read_params(ROOT / "params.yaml").train
MACHINE = read_params(ROOT / "params.yaml").machine
FLAT = {**COMMITTED.augmentation.model_dump(), **dict.fromkeys(AUGMENTATION_AMOUNTS, 0)}
MLP = {"name": "mlp", "mlp": {"hidden_sizes": [6]}}
CNN = {"name": "cnn", "cnn": {"filters": [3], "hidden_sizes": []}}
SMALL = {"model": MLP, "epochs": 4, "batch_size": 8, "warmup_fraction": 0.25}
PLAIN: dict[str, Any] = {
    "learning_rate": 1e-3,
    "batch_size": 100,
    "schedule": "constant",
    "augmentation": FLAT,
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Compute as a stage does, whose pin gives every library one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Layers(nn.Module):
    """What depends on more than weights and images: batch norm's buffers, and a random layer."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(shape[0], 4, 3),
            nn.BatchNorm2d(4),
            nn.GELU(),
            nn.Dropout(0.3),
            nn.Flatten(),
            nn.LazyLinear(classes),
        )
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.seen += len(images)
        logits: Tensor = self.layers(images)
        return logits


@pytest.fixture
def own_network(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Let `Layers` be the network of a name; return the params that choose it."""
    monkeypatch.setattr(mlp, "Model", Layers)
    return {"name": "mlp", "mlp": {}}


@pytest.fixture
def small_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a lane hold three of these tests' images at most; a batch of 8 then has 4 lanes of 2."""
    monkeypatch.setattr(lanes, "LANE_BYTES", 360)
    monkeypatch.setattr(lanes, "MIN_GHOST_BATCH_SIZE", 2)


def make_split(count: int, seed: int) -> Split:
    """Return random images whose first pixel is their number."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 1, 5, 6), np.uint8)
    images[:, 0, 0, 0] = np.arange(count)
    labels = rng.integers(0, 3, count)
    return Split(torch.from_numpy(images), torch.from_numpy(labels), DESCRIPTION)


def make_params(**changes: object) -> TrainParams:
    return TrainParams.model_validate(COMMITTED.model_dump() | SMALL | changes)


def make_training(images: int = 30, **changes: Any) -> Training:
    settings = ("cores", "checkpoint_every")
    of_machine: dict[str, Any] = {key: changes.pop(key) for key in settings if key in changes}
    machine = MACHINE.model_copy(update=of_machine)
    train, validation = make_split(images, seed=0), make_split(9, seed=1)
    return Training(train, validation, make_params(**changes), machine)


@pytest.fixture
def checkpoint(tmp_path: Path) -> CheckpointFile:
    return CheckpointFile(tmp_path / "checkpoints", "k" * 64)


def recorded(
    run: Training, checkpoint: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> list[dict[str, object]]:
    """Train and return the optimizer's settings at every step."""
    settings = []
    step = run.optimizer.step

    def record() -> None:
        group = run.optimizer.param_groups[0]
        settings.append({key: value for key, value in group.items() if key != "params"})
        step()

    monkeypatch.setattr(run.optimizer, "step", record)
    if run.schedule:  # it counts the optimizer's steps through a wrapper of its own
        monkeypatch.setattr(record, "_wrapped_by_lr_sched", True, raising=False)
    list(run.run(checkpoint))
    return settings


def test_one_cycle_goes_up_and_down_in_straight_lines(
    checkpoint: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 4 epochs of ceil(30 / 8) = 4 steps. From a 25th of the peak at step 0 to the peak at step
    # 0.25 * 16 - 1 = 3, and to a 1000th of where it began at the last step, 15.
    run = make_training(learning_rate=0.01, base_momentum=0.8, max_momentum=0.9)
    steps = recorded(run, checkpoint, monkeypatch)
    low, high, end = 0.01 / 25, 0.01, 0.01 / 25 / 1000
    up = [low + (high - low) * step / 3 for step in range(4)]
    down = [high + (end - high) * step / 12 for step in range(1, 13)]
    assert [step["lr"] for step in steps] == pytest.approx(up + down)
    # beta1 goes the other way.
    down = [0.9 - 0.1 * step / 3 for step in range(4)]
    up = [0.8 + 0.1 * step / 12 for step in range(1, 13)]
    assert [step["betas"][0] for step in steps] == pytest.approx(down + up)  # type: ignore[index]


def test_a_constant_schedule_is_constant(
    checkpoint: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_training(schedule="constant", learning_rate=0.003)
    steps = recorded(run, checkpoint, monkeypatch)
    assert [(step["lr"], step["betas"]) for step in steps] == [(0.003, (0.9, 0.999))] * 16


@pytest.mark.parametrize(
    ("epochs", "batch_size", "warmup"),
    [(1, 1000, 0.25), (1, 1000, 0.999999), (4, 30, 0.25), (1, 8, 1e-300), (1, 8, 0.99)],
)
def test_short_runs_can_be_scheduled(
    epochs: int,
    batch_size: int,
    warmup: float,
    checkpoint: CheckpointFile,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = make_training(
        epochs=epochs, batch_size=batch_size, warmup_fraction=warmup, learning_rate=0.01
    )
    steps = recorded(run, checkpoint, monkeypatch)
    assert len(steps) == epochs * math.ceil(30 / batch_size)
    assert all(0 < step["lr"] <= 0.01 for step in steps)  # type: ignore[operator]


def batches(run: Training, epoch: int) -> list[tuple[Tensor, Tensor]]:
    """Return the images and labels of every batch, its lanes put together."""
    run.gradients.make_room(1, run.lanes)
    found = []
    for batch in run._steps(epoch, 0):
        pieces = []
        for lane in range(batch.lanes):
            images, labels, _ = next(batch.pieces[lane])
            pieces.append((images.clone(), labels))  # the next lane may lie in its place
        assert sum(len(labels) for _, labels in pieces) == batch.images
        images, labels = (torch.cat(parts) for parts in zip(*pieces, strict=True))
        found.append((images, labels))
    return found


@pytest.mark.parametrize(
    ("batch_size", "block_bytes"),
    [(1, 2000), (8, 1), (29, 2000), (30, 1 << 24), (1000, 1 << 24)],
)
@pytest.mark.usefixtures("small_lanes")
def test_every_image_is_seen_once_per_epoch_with_its_label(
    batch_size: int, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches_module, "BLOCK_BYTES", block_bytes)
    run = make_training(augmentation={**FLAT, "translation": 1e-9}, batch_size=batch_size, cores=1)
    orders = []
    for epoch in (1, 2):
        found = batches(run, epoch)
        sizes = [len(labels) for _, labels in found]
        expected = [min(batch_size, 30 - start) for start in range(0, 30, batch_size)]
        assert sizes == ([30] if batch_size == 29 else expected)  # one image would be no batch
        first = torch.cat([images[:, 0, 0, 0] for images, _ in found])
        numbers = (first * 0.29 * 255 + 0.5 * 255).round().long()  # undo the normalisation
        assert sorted(numbers.tolist()) == list(range(30))
        labels = torch.cat([labels for _, labels in found])
        assert torch.equal(labels, run.train.labels[numbers])
        orders.append(numbers.tolist())
    assert orders[0] != orders[1]


def bits(run: Training) -> dict[str, bytes]:
    tensors = (*run.model.named_parameters(), *run.model.named_buffers())
    return {name: tensor.detach().numpy().tobytes() for name, tensor in tensors}


@pytest.mark.parametrize(
    ("optimizer", "schedule", "stop"),
    [
        ({"name": "Adam", "Adam": {"betas": [0.9, 0.95]}}, "one_cycle", 1),
        ({"name": "SGD", "SGD": {"momentum": 0.9, "nesterov": True}}, "one_cycle", 3),
        ({"name": "NAdam"}, "constant", 2),
        ({"name": "RMSprop", "RMSprop": {"centered": True}}, "constant", 3),
        ({"name": "Adafactor"}, "one_cycle", 1),
        ({"name": "ASGD"}, "constant", 1),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else str(value),
)
@pytest.mark.usefixtures("small_lanes")
def test_a_resumed_run_ends_in_the_same_bits(
    optimizer: dict[str, object],
    schedule: str,
    stop: int,
    own_network: dict[str, object],
    checkpoint: CheckpointFile,
    tmp_path: Path,
) -> None:
    settings: dict[str, Any] = {"model": own_network, "optimizer": optimizer, "schedule": schedule}
    settings["learning_rate"] = 0.01
    whole = make_training(**settings)
    list(whole.run(CheckpointFile(tmp_path / "other", "k" * 64)))
    assert whole.model.get_buffer("seen").item() > 0

    stopped = make_training(**settings)
    for history in stopped.run(checkpoint):
        if len(history) == stop:
            break  # as a killed process would
    resumed = make_training(**settings)
    epochs = [len(history) for history in resumed.run(checkpoint)]
    assert epochs == list(range(stop + 1, 5))
    assert bits(resumed) == bits(whole) != bits(stopped)
    assert resumed.history == whole.history


def test_the_last_checkpoint_counts(checkpoint: CheckpointFile) -> None:
    """With one every other epoch, a run stopped after the third goes on after the second."""
    stopped = make_training(checkpoint_every=2)
    for history in stopped.run(checkpoint):
        if len(history) == 3:
            break
    resumed = make_training(checkpoint_every=2)
    assert [len(history) for history in resumed.run(checkpoint)] == [3, 4]


@pytest.mark.parametrize(("every", "epochs"), [(0, 3), (1, 1), (5, 3)])
def test_no_checkpoint_where_none_is_due(
    every: int, epochs: int, checkpoint: CheckpointFile
) -> None:
    list(make_training(checkpoint_every=every, epochs=epochs).run(checkpoint))
    assert not checkpoint.path.exists()


def test_seeds(tmp_path: Path) -> None:
    results = []
    for seed in (0, 0, 1):
        run = make_training(seed=seed)
        list(run.run(CheckpointFile(tmp_path, "k" * 64)))
        (tmp_path / f"{'k' * 32}.checkpoint").unlink()
        results.append(bits(run))
    assert results[0] == results[1] != results[2]


@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
def test_the_first_epochs_figures_by_hand(
    label_smoothing: float, checkpoint: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that says the same of every image, and never learns: figures follow from labels."""
    run = make_training(epochs=1, schedule="constant", label_smoothing=label_smoothing)
    monkeypatch.setattr(run.optimizer, "step", lambda: None)
    probabilities = (0.5, 0.3, 0.2)
    with torch.no_grad():
        run.model.get_parameter("output.weight").zero_()
        run.model.get_parameter("output.bias").copy_(torch.log(torch.tensor(probabilities)))
    [[record]] = run.run(checkpoint)

    def figures(labels: Tensor, smoothing: float) -> tuple[float, float]:
        """Smoothing 0.3 over three classes: 0.8 for the label, 0.1 for each other one."""
        loss = 0.0
        for label in labels.tolist():
            for number, probability in enumerate(probabilities):
                share = smoothing / 3 + (1 - smoothing) * (number == label)
                loss -= share * math.log(probability)
        return loss / len(labels), int((labels == 0).sum()) / len(labels)

    train = (record.train_loss, record.train_accuracy)
    validation = (record.validation_loss, record.validation_accuracy)
    assert train == pytest.approx(figures(run.train.labels, label_smoothing))
    assert validation == pytest.approx(figures(run.validation.labels, 0.0))


@pytest.mark.parametrize(("epoch", "step", "value"), [(1, 1, "nan"), (2, 4, "inf")])
def test_a_diverging_run_says_where_and_stops(
    epoch: int,
    step: int,
    value: str,
    checkpoint: CheckpointFile,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = make_training(learning_rate=10.0, checkpoint_every=0)  # 4 steps per epoch
    calls = iter(range(1, 100))
    forward = run.model.forward

    def break_one_step(images: Tensor) -> Tensor:
        broken = run.model.training and next(calls) == 4 * (epoch - 1) + step
        logits: Tensor = forward(images + float(value) if broken else images)
        return logits

    monkeypatch.setattr(run.model, "forward", break_one_step)
    with pytest.raises(DivergenceError) as caught:
        list(run.run(checkpoint))
    assert str(caught.value) == (
        f"the loss is nan at step {step} of epoch {epoch}; no model is written. "
        "Lower train.learning_rate (now 10.0)"
    )
    assert len(run.history) == epoch - 1


def test_an_infinite_loss_is_no_number_either() -> None:
    run = make_training(learning_rate=0.5)
    run._check_finite(np.array([1.0, 0.0, 1e38]), 7)
    with pytest.raises(DivergenceError, match=r"the loss is inf at step 2 of epoch 7; .*now 0\.5"):
        run._check_finite(np.array([1.0, np.inf, np.nan]), 7)


def test_the_public_recipe_is_adam_without_anything_else(checkpoint: CheckpointFile) -> None:
    """Its first step moves each weight by the learning rate against its gradient's sign."""
    run = make_training(epochs=1, **PLAIN)
    assert isinstance(run.optimizer, torch.optim.Adam)
    [group] = run.optimizer.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-3, (0.9, 0.999), 0)
    assert run.schedule is None
    [(images, labels)] = batches(run, 1)
    assert len(labels) == 30
    raw = run.train.images.double()
    expected = {tuple(image.flatten().tolist()) for image in ((raw / 255 - 0.5) / 0.29).float()}
    assert len(expected) == 30
    assert torch.allclose(
        images.flatten(1).sort(0)[0],
        torch.tensor(sorted(expected)).sort(0)[0],
        atol=1e-5,
    )
    before = run.model.get_parameter("output.bias").detach().clone()
    list(run.run(checkpoint))
    moved = (run.model.get_parameter("output.bias").detach() - before).abs()
    assert moved.tolist() == pytest.approx([1e-3] * 3, rel=1e-2)


@pytest.mark.usefixtures("small_lanes")
def test_a_step_is_that_of_an_ordinary_loop(checkpoint: CheckpointFile) -> None:
    """Cut into four lanes or not, weights follow the batch's gradient, but for the rounding."""
    changes: dict[str, Any] = PLAIN | {"batch_size": 8, "optimizer": {"name": "SGD"}, "cores": 1}
    run = make_training(images=8, epochs=1, **changes)
    assert run.lanes == 4
    model = networks.build("mlp", {"hidden_sizes": [6]}, (1, 5, 6), 3)
    model.load_state_dict(run.model.state_dict())
    [(images, labels)] = batches(run, 1)
    loss = nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    [history] = run.run(checkpoint)
    assert history[0].train_loss == pytest.approx(loss.item())
    for ours, plain in zip(run.model.parameters(), model.parameters(), strict=True):
        assert plain.grad is not None
        assert torch.allclose(ours, plain - 1e-3 * plain.grad, atol=1e-7)


@pytest.mark.parametrize("network", ["cnn", "own"])
@pytest.mark.usefixtures("small_lanes")
def test_the_number_of_processes_changes_no_bit(
    network: str,
    own_network: dict[str, object],
    checkpoint: CheckpointFile,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Four lanes; the last batch has six images, in two lanes, so that some processes have none.

    The nine validation images are scored in five batches, by all processes.
    """
    monkeypatch.setattr(training, "BATCH_IMAGES", 2)
    monkeypatch.setattr(training, "available_cores", lambda: 8)
    model = {"cnn": CNN, "own": own_network}[network]
    results, counts = [], []
    for cores in (1, 2, 3, 8):
        run = make_training(cores=cores, model=model, checkpoint_every=0)
        for history in run.run(checkpoint):
            if len(history) == 1:
                counts.append(len(child_processes()))
        results.append((bits(run), run.history))
        assert not child_processes()
    assert counts == [0, 1, 2, 3]
    assert all(result == results[0] for result in results)


@pytest.mark.usefixtures("small_lanes")
def test_the_first_lane_owns_the_buffers(
    own_network: dict[str, object],
    checkpoint: CheckpointFile,
) -> None:
    """Steps of 8, 8, 8 and 6 images, in 4, 4, 4 and 2 lanes: lane 0 has 2, 2, 2 and 3."""
    run = make_training(epochs=1, model=own_network)
    list(run.run(checkpoint))
    assert run.model.get_buffer("seen").item() == 2 + 2 + 2 + 3
    assert run.model.get_buffer("layers.1.num_batches_tracked").item() == 4


def test_random_layers_draw_anew_for_each_step_and_lane() -> None:
    run = make_training(batch_size=8)
    run.lanes = 1
    run.gradients.make_room(1, run.lanes)
    seeds = [next(batch.pieces[0])[2] for epoch in (1, 2) for batch in run._steps(epoch, 0)]
    assert len(set(seeds)) == 8


def test_weights_that_take_no_part_and_frozen_ones(
    checkpoint: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Partly(mlp.Model):
        def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
            super().__init__(shape, classes)
            self.unused = nn.Parameter(torch.ones(3))
            self.hidden[0].requires_grad_(False)

    monkeypatch.setattr(mlp, "Model", Partly)
    decay = {"name": "AdamW", "AdamW": {"weight_decay": 0.1}}  # which would move what has gradients
    run = make_training(model={"name": "mlp"}, epochs=1, optimizer=decay)
    before = {name: weight.detach().clone() for name, weight in run.model.named_parameters()}
    list(run.run(checkpoint))
    same = {
        name for name, weight in run.model.named_parameters() if torch.equal(weight, before[name])
    }
    assert same == {"unused", "hidden.0.weight", "hidden.0.bias"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"optimizer": {"name": "Adamm"}},
            "params.yaml: train.optimizer.name: 'Adamm' is not allowed: it must be ASGD or ",
        ),
        (
            {"optimizer": {"name": "SGD", "SGD": {"betas": [0.9, 0.9]}}},
            "params.yaml: train.optimizer.SGD.betas: unknown option; SGD takes dampening, ",
        ),
        (
            {"optimizer": {"name": "SGD", "SGD": {"lr": 0.1}}},
            "params.yaml: train.optimizer.SGD.lr: unknown option; set train.learning_rate; ",
        ),
        (
            {"optimizer": {"name": "SGD", "SGD": {"momentum": -1.0}}},
            "params.yaml: train.optimizer.SGD: torch refuses it for this network: Invalid momentum",
        ),
        (
            {"model": {"name": "mlp", "mlp": {"sizes": [3]}}},
            "params.yaml: train.model.mlp.sizes: unknown option; the network takes hidden_sizes",
        ),
    ],
)
def test_mistakes_in_params_end_in_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ParamsError) as caught:
        make_training(**changes)
    assert str(caught.value).startswith(said)


@pytest.mark.usefixtures("small_lanes")
def test_a_run_that_is_left_leaves_no_process(
    checkpoint: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "available_cores", lambda: 8)
    run = make_training(cores=2).run(checkpoint)
    next(run)
    assert len(child_processes()) == 1
    del run
    assert not child_processes()


def test_the_card_says_beyond_what_an_image_is_unlike_all_others(
    checkpoint: CheckpointFile,
) -> None:
    run = make_training()
    before = run.card
    list(run.run(checkpoint))
    assert before.ood is None
    assert run.card.ood
    assert run.typical
    away = run.typical.mean - run.train.images.numpy().mean(axis=0)
    assert np.abs(away).max() <= 0.5
    [(logits, _)] = predict(run.model, run.validation, run.train.description, 1000)
    distances = run.typical.distances(run.validation.images.numpy())
    # Of nine images none is beyond: a hundredth of them is less than one.
    assert run.card.ood.logit == logits.amax(1).min().item()
    assert run.card.ood.distance == distances.max()
