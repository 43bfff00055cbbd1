"""The training loop: what is learnt from, how fast, and that an interruption changes nothing."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from image_pipeline.common.errors import ParamsError, PipelineError
from image_pipeline.modeling import networks, ood
from image_pipeline.modeling.inference import predict
from image_pipeline.models import mlp
from image_pipeline.training import loader
from image_pipeline.training import train as train_module
from image_pipeline.training.checkpoint import CheckpointFile
from image_pipeline.training.train import Trainer
from project import child_processes
from refusals import said_by
from toy import FLAT, KEY, bits, choice, make_trainer, result, train

pytestmark = pytest.mark.usefixtures("one_thread")
PLAIN: dict[str, Any] = {
    "learning_rate": 1e-3,
    "batch_size": 100,
    "lr_schedule": choice("constant"),
    "augmentation": FLAT,
}


def test_the_schedule_spans_the_training(checkpoint: CheckpointFile) -> None:
    run = make_trainer(lr_schedule=choice("cosine"), learning_rate=0.01)
    rates = [run.state.lr_schedule.get_last_lr()[0] for _ in run.train(checkpoint)]
    quarters = [math.cos(math.pi * epoch / 4) for epoch in (1, 2, 3, 4)]
    assert rates == pytest.approx([0.01 * (1 + cosine) / 2 for cosine in quarters])


def batches(run: Trainer, epoch: int) -> list[tuple[Tensor, Tensor]]:
    """Return the images and labels of every batch, its micro-batches put together."""
    found = []
    for batch in run.loader.epoch(epoch, range):
        parts = [  # copies: the next micro-batch may be prepared in the same memory
            (microbatch.images.clone(), microbatch.labels) for microbatch in batch.microbatches
        ]
        assert len(parts) == batch.num_microbatches
        assert sum(len(labels) for _, labels in parts) == batch.size
        images, labels = (torch.cat(columns) for columns in zip(*parts, strict=True))
        found.append((images, labels))
    return found


@pytest.mark.parametrize(
    ("batch_size", "chunk_bytes"), [(1, 2000), (8, 1), (29, 2000), (30, 1 << 24), (1000, 1 << 24)]
)
@pytest.mark.usefixtures("small_microbatches")
def test_every_image_is_seen_once_per_epoch_with_its_label(
    batch_size: int, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "CHUNK_BYTES", chunk_bytes)
    run = make_trainer(augmentation={**FLAT, "translation": 1e-9}, batch_size=batch_size, cores=1)
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
        assert torch.equal(labels, run.train_split.labels[numbers])
        orders.append(numbers.tolist())
    assert orders[0] != orders[1]


@pytest.mark.parametrize(
    ("optimizer", "schedule", "stop", "cores"),
    [
        (choice("Adam", betas=[0.9, 0.95]), "one_cycle", 1, (1, 3)),
        (choice("SGD", momentum=0.9, nesterov=True), "one_cycle", 3, (3, 1)),
        (choice("NAdam"), "cosine", 2, (2, 2)),
        (choice("RMSprop", centered=True), "constant", 3, (1, 1)),
        (choice("Adafactor"), "one_cycle", 1, (2, 3)),
        (choice("ASGD"), "step", 1, (4, 2)),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else str(value),
)
@pytest.mark.usefixtures("small_microbatches")
def test_a_resumed_run_says_so_and_ends_in_the_same_bits(
    optimizer: dict[str, Any],
    schedule: str,
    stop: int,
    cores: tuple[int, int],
    own_network: dict[str, Any],
    checkpoint: CheckpointFile,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """It may go on with another number of processes."""
    settings: dict[str, Any] = {"model": own_network, "optimizer": optimizer}
    settings |= {"learning_rate": 0.01, "lr_schedule": choice(schedule)}
    whole = train(make_trainer(**settings, cores=1), CheckpointFile(tmp_path / "other", KEY))
    assert whole.state.model.get_buffer("seen").item() > 0
    stopped = train(make_trainer(**settings, cores=cores[0]), checkpoint, stop)
    assert "going on" not in capfd.readouterr().out
    resumed = make_trainer(**settings, cores=cores[1])
    epochs = [len(history) for history in resumed.train(checkpoint)]
    said = f"train: going on after epoch {stop} from {checkpoint.path}\n"
    assert capfd.readouterr().out.startswith(said)
    assert epochs == list(range(stop + 1, 5))
    assert result(resumed) == result(whole) != result(stopped)


def test_seeds(tmp_path: Path) -> None:
    results = [
        result(train(make_trainer(seed=seed), CheckpointFile(tmp_path / str(number), KEY)))
        for number, seed in enumerate((0, 0, 1))
    ]
    assert results[0] == results[1] != results[2]


@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
def test_the_first_epochs_figures_by_hand(
    label_smoothing: float, checkpoint: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that says the same of every image, and never learns: figures follow from labels."""
    loss = choice("cross_entropy", label_smoothing=label_smoothing)
    run = make_trainer(epochs=1, lr_schedule=choice("constant"), loss=loss)
    monkeypatch.setattr(run.state, "step", lambda: None)
    probabilities = (0.5, 0.3, 0.2)
    with torch.no_grad():
        run.state.model.get_parameter("output.weight").zero_()
        run.state.model.get_parameter("output.bias").copy_(torch.log(torch.tensor(probabilities)))
    [[record]] = run.train(checkpoint)

    def figures(labels: Tensor, smoothing: float) -> tuple[float, float]:
        """Smoothing 0.3 over three classes: 0.8 for the label, 0.1 for each other one."""
        loss = 0.0
        for label in labels.tolist():
            for number, probability in enumerate(probabilities):
                share = smoothing / 3 + (1 - smoothing) * (number == label)
                loss -= share * math.log(probability)
        return loss / len(labels), int((labels == 0).sum()) / len(labels)

    training = (record.train_loss, record.train_accuracy)
    validation = (record.validation_loss, record.validation_accuracy)
    assert training == pytest.approx(figures(run.train_split.labels, label_smoothing))
    assert validation == pytest.approx(figures(run.validation_split.labels, 0.0))


@pytest.mark.parametrize(("epoch", "step", "value"), [(1, 2, math.inf), (2, 4, math.nan)])
def test_a_diverging_run_says_where_and_stops(
    epoch: int, step: int, value: float, checkpoint: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_trainer(learning_rate=10.0, checkpoint_every=0)  # 4 steps per epoch
    calls = iter(range(100))  # before the first step, one looks up the operations
    loss = run.loss

    def break_one_step(*given: Tensor) -> Tensor:
        return loss(*given) * (value if next(calls) == 4 * (epoch - 1) + step else 1)

    monkeypatch.setattr(run, "loss", break_one_step)
    assert said_by(PipelineError, train, run, checkpoint) == (
        f"the loss is {value} at step {step} of epoch {epoch}; no model is written. "
        "Lower train.learning_rate (now 10.0)"
    )
    assert len(run.state.history) == epoch - 1


def test_the_public_recipe_is_adam_without_anything_else(checkpoint: CheckpointFile) -> None:
    """Its first step moves each weight by the learning rate against its gradient's sign."""
    run = make_trainer(epochs=1, **PLAIN)
    assert isinstance(run.state.optimizer, torch.optim.Adam)
    [group] = run.state.optimizer.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-3, (0.9, 0.999), 0)
    before = run.state.model.get_parameter("output.bias").detach().clone()
    train(run, checkpoint)
    moved = (run.state.model.get_parameter("output.bias").detach() - before).abs()
    assert moved.tolist() == pytest.approx([1e-3] * 3, rel=1e-2)


@pytest.mark.usefixtures("small_microbatches")
def test_a_step_is_that_of_an_ordinary_loop(checkpoint: CheckpointFile) -> None:
    """In four micro-batches or one, weights follow the batch's gradient, but for the rounding."""
    changes: dict[str, Any] = PLAIN | {"batch_size": 8, "optimizer": choice("SGD"), "cores": 1}
    run = make_trainer((8, 9), epochs=1, **changes)
    assert run.loader.max_microbatches == 4
    model = networks.build("mlp", {"hidden_sizes": [6]}, (1, 5, 6), 3)
    model.load_state_dict(run.state.model.state_dict())
    [(images, labels)] = batches(run, 1)
    loss = nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    [history] = run.train(checkpoint)
    assert history[0].train_loss == pytest.approx(loss.item())
    for ours, plain in zip(run.state.model.parameters(), model.parameters(), strict=True):
        assert plain.grad is not None
        assert torch.allclose(ours, plain - 1e-3 * plain.grad, atol=1e-7)


@pytest.mark.parametrize("network", ["cnn", "own"])
@pytest.mark.usefixtures("small_microbatches")
def test_the_number_of_processes_changes_no_bit(
    network: str,
    own_network: dict[str, Any],
    checkpoint: CheckpointFile,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Four micro-batches; the last batch has two, so that some processes have none.

    The nine validation images are scored in five batches, by all processes.
    """
    monkeypatch.setattr(train_module, "BATCH_IMAGES", 2)
    cnn = choice("cnn", filters=[3], hidden_sizes=[])
    model = own_network if network == "own" else cnn
    results, counts = [], []
    for cores in (1, 2, 3, 8):
        run = make_trainer(cores=cores, model=model, checkpoint_every=0)
        for history in run.train(checkpoint):
            if len(history) == 1:
                counts.append(len(child_processes()))
        results.append(result(run))
        assert not child_processes()
    assert counts == [0, 1, 2, 3]
    assert all(result == results[0] for result in results)


def test_looking_up_operations_changes_no_bit(tmp_path: Path) -> None:
    """Where images have shrunk to one pixel, their memory format is ambiguous."""
    digests = set()
    for numerics in ("portable", "fast"):  # which looks nothing up; no test pins the kernels
        model = choice("efficientnet_lite0")
        run = make_trainer(numerics=numerics, model=model, epochs=1, batch_size=30)
        train(run, CheckpointFile(tmp_path, KEY))
        digests.add(run.state.digest())
    assert len(digests) == 1


@pytest.mark.usefixtures("small_microbatches")
def test_the_first_microbatch_decides_the_buffers(
    own_network: dict[str, Any], checkpoint: CheckpointFile
) -> None:
    """Of 8, 8, 8 and 6 images, in 4, 4, 4 and 2 micro-batches, the first has 2, 2, 2 and 3."""
    run = make_trainer(epochs=1, model=own_network)
    train(run, checkpoint)
    assert run.state.model.get_buffer("seen").item() == 2 + 2 + 2 + 3
    assert run.state.model.get_buffer("layers.1.num_batches_tracked").item() == 4


def test_random_layers_have_a_seed_for_each_step_and_microbatch() -> None:
    run = make_trainer(batch_size=8)
    seeds = [
        microbatch.seed
        for epoch in (1, 2)
        for batch in run.loader.epoch(epoch, range)
        for microbatch in batch.microbatches
    ]
    assert len(set(seeds)) == len(seeds) == 8


def test_weights_that_take_no_part_and_frozen_ones(
    checkpoint: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Partly(mlp.Model):
        def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
            super().__init__(shape, classes)
            self.unused = nn.Parameter(torch.ones(3))
            self.hidden[0].requires_grad_(False)

    monkeypatch.setattr(mlp, "Model", Partly)
    decay = choice("AdamW", weight_decay=0.1)  # which would move what has gradients
    run = make_trainer(model=choice("mlp"), epochs=1, optimizer=decay)
    before = bits(run)
    after = bits(train(run, checkpoint))
    assert {name for name in after if after[name] == before[name]} == {
        "unused",
        "hidden.0.weight",
        "hidden.0.bias",
    }


@pytest.mark.parametrize(
    ("block", "value", "said"),
    [
        ("optimizer", choice("Adamm"), ".name: 'Adamm' is not allowed: it must be ASGD or "),
        (
            "optimizer",
            choice("SGD", betas=[0.9, 0.9]),
            ".SGD.betas: unknown option; SGD takes dampening, ",
        ),
        ("optimizer", choice("SGD", lr=0.1), ".SGD.lr: unknown option; set train.learning_rate; "),
        (
            "optimizer",
            choice("SGD", momentum=-1.0),
            ".SGD: torch refuses it for this network: Invalid momentum",
        ),
        ("loss", choice("focl"), ".name: 'focl' is not allowed: it must be cross_entropy or "),
        (
            "loss",
            choice("focal", gamma=-1),
            ".focal.gamma: -1 is not allowed: input should be greater than ",
        ),
        ("lr_schedule", choice("cosin"), ".name: 'cosin' is not allowed: it must be one_cycle "),
        (
            "model",
            choice("mlp", sizes=[3]),
            ".mlp.sizes: unknown option; the options are hidden_sizes",
        ),
        (
            "augmentation",
            {**FLAT, "hue": 0.1},
            ".hue: 0.1 needs images with 3 channels, but these have",
        ),
    ],
)
def test_mistakes_in_params_end_in_one_line(block: str, value: dict[str, Any], said: str) -> None:
    message = said_by(ParamsError, make_trainer, **{block: value})
    assert message.startswith(f"params.yaml: train.{block}{said}")


@pytest.mark.usefixtures("small_microbatches")
def test_a_run_that_is_left_leaves_no_process(
    checkpoint: CheckpointFile,
) -> None:
    run = make_trainer(cores=2).train(checkpoint)
    next(run)
    assert len(child_processes()) == 1
    del run
    assert not child_processes()


def test_thresholds_are_fitted_on_the_validation_images(checkpoint: CheckpointFile) -> None:
    run = train(make_trainer(), checkpoint)
    model, split, validation = run.state.model, run.train_split, run.validation_split
    statistics, thresholds = ood.fit(model, split, validation)
    away = statistics.mean - split.images.numpy().mean(axis=0)
    assert np.abs(away).max() <= 0.5
    [(logits, _)] = predict(model, validation, split.info, 1000)
    distances = statistics.distances(validation.images.numpy())
    # Of nine images none is beyond: a hundredth of them is less than one.
    assert thresholds.logit == logits.amax(1).min().item()
    assert thresholds.distance == distances.max()
