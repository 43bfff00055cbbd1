"""The training loop."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from tqdm import tqdm

from image_pipeline.augmentation import augment
from image_pipeline.checkpoint import CheckpointFile
from image_pipeline.errors import DivergenceError
from image_pipeline.history import EpochRecord
from image_pipeline.inference import predict
from image_pipeline.model import build_model, normalise
from image_pipeline.model_card import ModelCard
from image_pipeline.params import TrainParams
from image_pipeline.tensor_files import Split

BLOCK_IMAGES = 4096  # images augmented at once: enough to amortise, few enough to stay in the cache
CACHED_IMAGES = 256  # images normalised at once, still in the cache from the first to the last step
INFERENCE_BATCH = 1000


class Training:
    """One run: the model, its optimizer and learning-rate schedule, and what was measured so far.

    All randomness of an epoch comes from a generator seeded with (seed, epoch), so the state to be
    saved is the model's, the optimizer's and the schedule's alone.
    """

    def __init__(
        self, train: Split, validation: Split, card: ModelCard, params: TrainParams
    ) -> None:
        self.train = train
        self.validation = validation
        self.card = card
        self.params = params
        self.history: list[EpochRecord] = []
        self.steps_per_epoch = math.ceil(len(train.labels) / params.batch_size)
        block = min(len(train.labels), max(params.batch_size, BLOCK_IMAGES))
        # Room for two blocks of images, used again and again: fresh memory of this size costs more,
        # page by page, than what is computed in it.
        self._spaces = np.empty((2, block, *train.shape), np.float32)
        self._start()

    def _start(self) -> None:
        torch.manual_seed(self.params.seed)
        self.history = []
        self.model = build_model(self.card)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(),
            lr=self.params.learning_rate,
            betas=(0.9, self.params.beta2),
            fused=True,
        )
        self.schedule = self._make_schedule()

    def _make_schedule(self) -> LRScheduler | None:
        if self.params.schedule == "constant":
            return None
        steps = max(2, self.params.epochs * self.steps_per_epoch)
        warmup = self.params.warmup_fraction
        return OneCycleLR(
            self.optimizer,
            max_lr=self.params.learning_rate,
            total_steps=steps,
            # A way up of one step would have no length, which torch would divide by.
            pct_start=warmup if warmup * steps > 1 else 0.0,
            final_div_factor=1000,
            # Straight lines: the default's cosine would come from the system's maths library.
            anneal_strategy="linear",
        )

    def run(self, checkpoint: CheckpointFile) -> Iterator[list[EpochRecord]]:
        """Train to the last epoch, from the checkpoint where there is one.

        Yields:
            The history after each epoch.

        Raises:
            DivergenceError: a loss is not finite.
        """
        self._go_on_from(checkpoint)
        every, epochs = self.params.checkpoint_every, self.params.epochs
        bar: tqdm[NoReturn]
        with tqdm(
            total=epochs * len(self.train.labels),
            initial=len(self.history) * len(self.train.labels),
            desc="train",
            unit="image",
            unit_scale=True,
        ) as bar:
            while len(self.history) < epochs:
                self.history.append(self._epoch(len(self.history) + 1, bar))
                if every and len(self.history) % every == 0 and len(self.history) < epochs:
                    checkpoint.save(self._state())
                yield self.history

    def _epoch(self, epoch: int, bar: "tqdm[NoReturn]") -> EpochRecord:
        self.model.train()
        rng = np.random.default_rng((self.params.seed, epoch))
        losses, correct = np.empty(self.steps_per_epoch), 0
        for step, (images, labels) in enumerate(self._batches(rng)):
            logits = self.model(images)  # [B, classes]
            loss = functional.cross_entropy(
                logits, labels, label_smoothing=self.params.label_smoothing
            )
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            if self.schedule:
                self.schedule.step()
            losses[step] = loss.item() * len(labels)
            # NumPy's take half the time of torch's for so few numbers.
            correct += int((logits.detach().numpy().argmax(1) == labels.numpy()).sum())
            bar.update(len(labels))
        self._check_finite(losses, epoch)
        validation_loss, validation_accuracy = self._validate()
        record = EpochRecord(
            epoch=epoch,
            train_loss=math.fsum(losses) / len(self.train.labels),
            validation_loss=validation_loss,
            train_accuracy=correct / len(self.train.labels),
            validation_accuracy=validation_accuracy,
        )
        bar.set_postfix_str(
            f"epoch {epoch}/{self.params.epochs}, validation loss {validation_loss:.4f}, "
            f"accuracy {validation_accuracy:.2%}"
        )
        return record

    def _batches(self, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every training image once, in random order, as the model takes it.

        Images float32 `[B, C, H, W]`, labels int64 `[B]`.
        """
        size = self.params.batch_size
        order = np.arange(len(self.train.labels), dtype=np.uint32)
        rng.shuffle(order)
        for chosen, images in self._blocks(order, rng):
            for start in range(0, len(chosen), size):
                indices = torch.from_numpy(chosen[start : start + size].astype(np.int64))
                yield torch.from_numpy(images[start : start + size]), self.train.labels[indices]

    def _blocks(
        self, order: np.ndarray, rng: np.random.Generator
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the images in `order`, block by block, normalised, with their indices.

        A second thread prepares the next block while this one is learnt from. It alone draws from
        `rng`, block after block, so the result does not depend on who is faster.
        """
        size = self.params.batch_size * max(1, BLOCK_IMAGES // self.params.batch_size)
        blocks = [order[start : start + size] for start in range(0, len(order), size)]

        def prepare(number: int) -> np.ndarray:
            space = self._spaces[number % 2][: len(blocks[number])]
            return self._prepare(blocks[number], rng, space)

        with ThreadPoolExecutor(max_workers=1) as ahead:
            pending = ahead.submit(prepare, 0)
            for number, chosen in enumerate(blocks):
                ready = pending.result()
                if number + 1 < len(blocks):
                    pending = ahead.submit(prepare, number + 1)
                yield chosen, ready

    def _prepare(
        self, chosen: np.ndarray, rng: np.random.Generator, space: np.ndarray
    ) -> np.ndarray:
        """Fill `space`, float32 `[B, C, H, W]`, with the chosen images as the model takes them."""
        images = self.train.images.numpy()
        augmented = self.params.augmentation.enabled
        if augmented:
            augment(images[chosen], self.params.augmentation, rng, space)
        for start in range(0, len(chosen), CACHED_IMAGES):
            part = slice(start, start + CACHED_IMAGES)
            pixels = space[part] if augmented else images[chosen[part]]
            normalise(pixels, self.card.data, out=space[part])
        return space

    def _validate(self) -> tuple[float, float]:
        loss, correct, count = 0.0, 0, len(self.validation.labels)
        for logits, labels in predict(self.model, self.validation, self.card.data, INFERENCE_BATCH):
            loss += functional.cross_entropy(logits.double(), labels, reduction="sum").item()
            correct += int((logits.argmax(1) == labels).sum())
        return loss / count, correct / count

    def _check_finite(self, losses: np.ndarray, epoch: int) -> None:
        bad = np.flatnonzero(~np.isfinite(losses))
        if len(bad):
            step = int(bad[0])
            raise DivergenceError(
                f"the loss is {losses[step]} at step {step + 1} of epoch {epoch}; no model "
                f"is written. Lower train.learning_rate (now {self.params.learning_rate})"
            )

    def _state(self) -> dict[str, object]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict() if self.schedule else None,
            "history": [asdict(record) for record in self.history],
        }

    def _go_on_from(self, checkpoint: CheckpointFile) -> None:
        state = checkpoint.load()
        if state is None:
            return
        try:
            self._restore(state)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            checkpoint.ignore(f"not of this training's form ({type(error).__name__})")
            self._start()  # whatever was restored before the fault
            return
        print(f"train: going on after epoch {len(self.history)} from {checkpoint.path}")

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule:
            self.schedule.load_state_dict(state["schedule"])
        for parameter, moments in self.optimizer.state.items():  # torch does not compare these
            for name in ("exp_avg", "exp_avg_sq"):
                if moments[name].shape != parameter.shape:
                    raise ValueError(f"{name} has the shape {tuple(moments[name].shape)}")
        self.history = [EpochRecord(**record) for record in state["history"]]
        if not 0 < len(self.history) < self.params.epochs:
            raise ValueError(f"{len(self.history)} of {self.params.epochs} epochs")
