"""The training loop: what is learnt from, how fast, and that an interruption changes nothing."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from image_pipeline.checkpoint import CheckpointFile
from image_pipeline.errors import DivergenceError
from image_pipeline.model import ConvolutionalNetwork, MultilayerPerceptron
from image_pipeline.model_card import ModelCard
from image_pipeline.params import AUGMENTATION_AMOUNTS, TrainParams, read_params
from image_pipeline.tensor_files import Description, Split
from image_pipeline.training import Training
from project import ROOT, child_processes

DESCRIPTION = Description("toy", ("a", "b", "c"), (0.5,), (0.29,))
COMMITTED = read_params(ROOT / "params.yaml").train
FLAT = {**dict.fromkeys(AUGMENTATION_AMOUNTS, 0.0), "group_size": 4}
SMALL = {"hidden_sizes": [6], "epochs": 4, "batch_size": 8, "warmup_fraction": 0.25}


def make_split(count: int, seed: int) -> Split:
    """Return random images whose first pixel is their number."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 1, 5, 6), np.uint8)
    images[:, 0, 0, 0] = np.arange(count)
    labels = rng.integers(0, 3, count)
    return Split(torch.from_numpy(images), torch.from_numpy(labels), DESCRIPTION)


def make_params(**changes: object) -> TrainParams:
    return TrainParams.model_validate(COMMITTED.model_dump() | SMALL | changes)


def make_training(**changes: object) -> Training:
    params = make_params(**changes)
    train = make_split(30, seed=0)
    card = ModelCard(
        train.shape,
        tuple(params.hidden_sizes),
        DESCRIPTION,
        params.augmentation,
        params.blocks,
    )
    return Training(train, make_split(9, seed=1), card, params)


@pytest.fixture
def checkpoint(tmp_path: Path) -> CheckpointFile:
    return CheckpointFile(tmp_path / "checkpoints", "k" * 64)


def learning_rates(
    training: Training, checkpoint: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> list[float]:
    """Run `training` and return the learning rate of every step."""
    rates = []
    step = training.optimizer.step

    def record() -> None:
        rates.append(training.optimizer.param_groups[0]["lr"])
        step()

    monkeypatch.setattr(training.optimizer, "step", record)
    if training.schedule:  # it counts the optimizer's steps through a wrapper of its own
        monkeypatch.setattr(record, "_wrapped_by_lr_sched", True, raising=False)
    list(training.run(checkpoint))
    return rates


def test_one_cycle_goes_up_and_down_in_straight_lines(
    checkpoint: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 4 epochs of ceil(30 / 8) = 4 steps. From a 25th of the peak at step 0 to the peak at step
    # 0.25 * 16 - 1 = 3, and to a 1000th of where it began at the last step, 15.
    training = make_training(learning_rate=0.01)
    rates = learning_rates(training, checkpoint, monkeypatch)
    low, high, end = 0.01 / 25, 0.01, 0.01 / 25 / 1000
    up = [low + (high - low) * step / 3 for step in range(4)]
    down = [high + (end - high) * step / 12 for step in range(1, 13)]
    assert rates == pytest.approx(up + down)


def test_a_constant_schedule_is_constant(
    checkpoint: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = make_training(schedule="constant", learning_rate=0.003)
    assert learning_rates(training, checkpoint, monkeypatch) == [0.003] * 16


def test_one_epoch_of_one_step_can_be_scheduled(checkpoint: CheckpointFile) -> None:
    [history] = make_training(epochs=1, batch_size=1000).run(checkpoint)
    assert [record.epoch for record in history] == [1]


def batches(training: Training, epoch: int) -> list[tuple[Tensor, Tensor]]:
    """Return the images and labels of every batch, its lanes put together."""
    lanes = range(len(training._gradients))
    found = []
    for learn, _ in training._steps(epoch, lanes):
        [pieces, share] = learn.args  # type: ignore[attr-defined]
        images = np.concatenate([images for _, images, _ in pieces])
        labels = np.concatenate([labels for _, _, labels in pieces])
        assert share == 1 / len(labels)
        found.append((torch.from_numpy(images), torch.from_numpy(labels)))
    return found


@pytest.mark.parametrize("lane_images", [256, 3])
@pytest.mark.parametrize("batch_size", [1, 8, 30, 1000])
def test_every_image_is_seen_once_per_epoch_with_its_label(
    batch_size: int, lane_images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MultilayerPerceptron, "lane_images", lane_images)
    training = make_training(augmentation=FLAT, batch_size=batch_size)
    orders = []
    for epoch in (1, 2):
        found = batches(training, epoch)
        sizes = [len(labels) for _, labels in found]
        assert sizes == [min(batch_size, 30 - start) for start in range(0, 30, batch_size)]
        first = torch.cat([images[:, 0, 0, 0] for images, _ in found])
        numbers = (first * 0.29 * 255 + 0.5 * 255).round().long()  # undo the normalisation
        assert sorted(numbers.tolist()) == list(range(30))
        labels = torch.cat([labels for _, labels in found])
        assert torch.equal(labels, training.train.labels[numbers])
        orders.append(numbers.tolist())
    assert orders[0] != orders[1]


@pytest.mark.parametrize("lane_images", [256, 3])
@pytest.mark.parametrize("block", [8, 16])
def test_blocks_do_not_lose_or_repeat_images(
    block: int, lane_images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of a few images, each where the one before was."""
    monkeypatch.setattr(MultilayerPerceptron, "lane_images", lane_images)
    monkeypatch.setattr("image_pipeline.training.BLOCK_IMAGES", block)
    training = make_training(augmentation={**FLAT, "translation": 1e-9})
    kept = batches(training, 1)
    first = torch.cat([images[:, 0, 0, 0] for images, _ in kept])
    numbers = (first * 0.29 * 255 + 0.5 * 255).round().long()
    assert sorted(numbers.tolist()) == list(range(30))
    labels = torch.cat([labels for _, labels in kept])
    assert torch.equal(labels, training.train.labels[numbers])
    assert len(kept) == 4


def bits(training: Training) -> dict[str, bytes]:
    weights = training.model.state_dict()
    return {name: tensor.numpy().tobytes() for name, tensor in weights.items()}


@pytest.mark.parametrize("schedule", ["one_cycle", "constant"])
@pytest.mark.parametrize("stop", [1, 2, 3])
@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_a_resumed_run_ends_in_the_same_bits(
    model: str, stop: int, schedule: str, checkpoint: CheckpointFile, tmp_path: Path
) -> None:
    settings = {"model": model, "channels": [3], "schedule": schedule}
    whole = make_training(**settings)
    list(whole.run(CheckpointFile(tmp_path / "other", "k" * 64)))

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
        training = make_training(seed=seed)
        list(training.run(CheckpointFile(tmp_path, "k" * 64)))
        (tmp_path / f"{'k' * 32}.checkpoint").unlink()
        results.append(bits(training))
    assert results[0] == results[1] != results[2]


def test_the_first_epochs_figures_by_hand(
    checkpoint: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that says the same of every image, and never learns: figures follow from labels."""
    training = make_training(epochs=1, label_smoothing=0.0)
    monkeypatch.setattr(training.optimizer, "step", lambda: None)
    monkeypatch.setattr(training.schedule, "step", lambda: None)
    with torch.no_grad():
        training.model.output.weight.zero_()
        training.model.output.bias.copy_(torch.log(torch.tensor([0.5, 0.3, 0.2])))
    [[record]] = training.run(checkpoint)

    def figures(labels: Tensor) -> tuple[float, float]:
        counts = torch.bincount(labels, minlength=3).tolist()
        loss = -sum(n * math.log(p) for n, p in zip(counts, (0.5, 0.3, 0.2), strict=True))
        return loss / len(labels), counts[0] / len(labels)

    train = (record.train_loss, record.train_accuracy)
    validation = (record.validation_loss, record.validation_accuracy)
    assert train == pytest.approx(figures(training.train.labels))
    assert validation == pytest.approx(figures(training.validation.labels))


def test_label_smoothing_by_hand(
    checkpoint: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Smoothing 0.3 over three classes: 0.8 for the label, 0.1 for each other one."""
    training = make_training(epochs=1, label_smoothing=0.3)
    monkeypatch.setattr(training.optimizer, "step", lambda: None)
    monkeypatch.setattr(training.schedule, "step", lambda: None)
    probabilities = (0.5, 0.3, 0.2)
    with torch.no_grad():
        training.model.output.weight.zero_()
        training.model.output.bias.copy_(torch.log(torch.tensor(probabilities)))
    [[record]] = training.run(checkpoint)
    expected = 0.0
    for label in training.train.labels.tolist():
        for number, probability in enumerate(probabilities):
            expected -= (0.8 if number == label else 0.1) * math.log(probability)
    assert record.train_loss == pytest.approx(expected / 30)


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize(("epoch", "step"), [(1, 1), (1, 3), (2, 4)])
def test_a_diverging_run_says_where_and_stops(
    epoch: int,
    step: int,
    value: str,
    checkpoint: CheckpointFile,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    training = make_training(learning_rate=10.0, checkpoint_every=0)  # 4 steps per epoch
    calls = iter(range(1, 100))
    learn = training.model.learn

    def break_one_step(images: np.ndarray, *arguments: Any, **more: Any) -> tuple[float, int]:
        broken = next(calls) == 4 * (epoch - 1) + step
        return learn(images + float(value) if broken else images, *arguments, **more)

    monkeypatch.setattr(training.model, "learn", break_one_step)
    with pytest.raises(DivergenceError) as caught:
        list(training.run(checkpoint))
    assert str(caught.value) == (
        f"the loss is nan at step {step} of epoch {epoch}; no model is written. "
        "Lower train.learning_rate (now 10.0)"
    )
    assert len(training.history) == epoch - 1


def test_an_infinite_loss_is_no_number_either() -> None:
    training = make_training(learning_rate=0.5)
    training._check_finite(np.array([1.0, 0.0, 1e38]), 7)
    with pytest.raises(DivergenceError, match=r"the loss is inf at step 2 of epoch 7; .*now 0\.5"):
        training._check_finite(np.array([1.0, np.inf, np.nan]), 7)


@pytest.mark.parametrize(
    ("epochs", "batch_size", "warmup"),
    [(1, 30, 0.25), (1, 30, 0.5), (4, 30, 0.25), (1, 8, 0.25), (1, 8, 0.01), (1, 8, 0.99)],
)
def test_short_warm_ups_can_be_scheduled(
    epochs: int,
    batch_size: int,
    warmup: float,
    checkpoint: CheckpointFile,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    training = make_training(
        epochs=epochs, batch_size=batch_size, warmup_fraction=warmup, learning_rate=0.01
    )
    rates = learning_rates(training, checkpoint, monkeypatch)
    assert len(rates) == epochs * math.ceil(30 / batch_size)
    assert all(0 < rate <= 0.01 for rate in rates)


def test_the_plain_recipe_is_settled() -> None:
    params = make_params(recipe="plain", label_smoothing=0.2, beta2=0.9)
    assert params.learning_rate == 1e-3
    assert params.beta2 == 0.999
    assert params.batch_size == 100
    assert params.schedule == "constant"
    assert params.label_smoothing == 0
    assert not params.augmentation.enabled
    assert params.hidden_sizes == [6]  # what the recipe does not speak of stays
    assert params.epochs == 4


def test_the_plain_recipe_is_adam_without_anything_else() -> None:
    training = make_training(recipe="plain")
    assert isinstance(training.optimizer, torch.optim.Adam)
    [group] = training.optimizer.param_groups
    assert group["lr"] == 1e-3
    assert group["betas"] == (0.9, 0.999)
    assert group["weight_decay"] == 0
    assert training.schedule is None
    [(images, labels)] = batches(training, 1)
    assert len(labels) == 30
    chosen = np.random.default_rng((COMMITTED.seed, 1)).permutation(30)
    raw = training.train.images[torch.from_numpy(chosen)].double()
    assert torch.allclose(images.double(), (raw / 255 - 0.5) / 0.29, atol=1e-5)


def test_the_first_step_of_adam_by_hand(checkpoint: CheckpointFile) -> None:
    """Adam's first step moves each weight by the learning rate against its gradient's sign."""
    training = make_training(recipe="plain", epochs=1)
    before = training.model.output.bias.detach().clone()
    list(training.run(checkpoint))
    moved = (training.model.output.bias.detach() - before).abs()
    assert moved.tolist() == pytest.approx([1e-3] * 3, rel=1e-2)


@pytest.mark.parametrize("augmented", [True, False])
@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_the_number_of_processes_changes_no_bit(
    model: str, augmented: bool, checkpoint: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lanes of three images or four; the last batch has six, so one lane is short or empty.

    The nine validation images are scored in five batches, by all processes.
    """
    monkeypatch.setattr("image_pipeline.training.INFERENCE_BATCH", 2)
    monkeypatch.setattr(MultilayerPerceptron, "lane_images", 3)
    monkeypatch.setattr(ConvolutionalNetwork, "lane_images", 2)
    monkeypatch.setattr("image_pipeline.training.available_cores", lambda: 8)
    results, counts = [], []
    for threads in (1, 2, 3, 8):
        training = make_training(
            threads=threads,
            model=model,
            channels=[3],
            checkpoint_every=0,
            **({} if augmented else {"augmentation": FLAT}),
        )
        for history in training.run(checkpoint):
            if len(history) == 1:
                counts.append(len(child_processes()))
        results.append((bits(training), training.history))
        assert not child_processes()
    most = {"mlp": 2, "cnn": 4}[model]
    assert counts == [min(threads, most) - 1 for threads in (1, 2, 3, 8)]
    assert all(result == results[0] for result in results)


def test_lanes_add_up_to_the_batch(
    checkpoint: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut into lanes or not, a step follows the same gradient, but for the rounding."""
    weights = []
    for lane_images in (256, 2):
        monkeypatch.setattr(MultilayerPerceptron, "lane_images", lane_images)
        training = make_training(recipe="plain", epochs=1)
        [history] = training.run(checkpoint)
        weights.append((training._gradients[0].copy(), history[0].train_loss))
        assert len(training._gradients) == {256: 1, 2: 8}[lane_images]
    assert np.allclose(weights[0][0], weights[1][0], atol=1e-6)
    assert weights[0][1] == pytest.approx(weights[1][1])


@pytest.mark.parametrize(("lane_images", "parts"), [(256, 1), (3, 2), (2, 4), (1, 7)])
def test_every_weight_is_in_one_part(
    lane_images: int, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """207 weights: as many parts as lanes, in whole cache lines; eight would have an empty one."""
    monkeypatch.setattr(MultilayerPerceptron, "lane_images", lane_images)
    training = make_training()
    weights = torch.cat([values.detach().flatten() for values in training.model.parameters()])
    assert torch.equal(torch.cat([part.detach() for part in training._parts]), weights)
    assert len(training._parts) == parts
    assert all(part.data_ptr() % 64 == 0 for part in training._parts)
    lanes = len(training._gradients)
    for processes in (1, 2, 3):
        owners = [0] * parts
        for number in range(processes):
            assert list(training._claim(number, processes)) == list(range(number, lanes, processes))
            for index, part in enumerate(training._parts):
                owners[index] += part.grad is not None
        assert owners == [1] * parts


def test_a_large_network_has_few_sets_of_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MultilayerPerceptron, "lane_images", 1)
    weights = 30 * 6 + 6 + 6 * 3 + 3
    for most, lanes in ((1, 1), (3 * weights - 1, 2), (3 * weights, 3), (1 << 26, 8)):
        monkeypatch.setattr("image_pipeline.training.MAX_GRADIENTS", most)
        assert len(make_training()._gradients) == lanes


def test_a_run_that_is_left_leaves_no_process(
    checkpoint: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MultilayerPerceptron, "lane_images", 3)
    monkeypatch.setattr("image_pipeline.training.available_cores", lambda: 8)
    run = make_training(threads=2).run(checkpoint)
    next(run)
    assert len(child_processes()) == 1
    del run
    assert not child_processes()
