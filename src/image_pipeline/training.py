"""The training loop: on several cores, and yet the same to the bit.

A batch is cut into lanes, by its size alone. All that is done to a lane's images, from the draw of
their augmentation to the gradients, is done by one process. The weights are cut into parts, and one
process adds up the gradients of a part, lane by lane, and updates it. So the result depends neither
on how many processes there are nor on who is faster. Each core keeps images and activations in its
own cache and waits for the others twice a step, where a product that all cores share has them wait
in every layer.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any, NoReturn

import numpy as np
import torch
from torch.nn import functional
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from tqdm import tqdm

from image_pipeline.augmentation import augment
from image_pipeline.checkpoint import CheckpointFile
from image_pipeline.cores import available_cores
from image_pipeline.errors import DivergenceError
from image_pipeline.history import EpochRecord
from image_pipeline.inference import predict
from image_pipeline.model import build_model, normalise
from image_pipeline.model_card import ModelCard
from image_pipeline.params import TrainParams
from image_pipeline.tensor_files import Split
from image_pipeline.workers import Step, Steps, Workers, shared_array

BLOCK_IMAGES = 4096  # images made ready at once: enough to amortise, few enough to stay in a cache
CACHED_IMAGES = 256  # images normalised at once, still in the cache from the first to the last step
MAX_LANES = 8
MAX_GRADIENTS = 1 << 26  # values in all lanes together: 256 MB
PART_UNIT = 16  # values of a part of the weights: a cache line, so that no two processes share one
INFERENCE_BATCH = 1000


class Training:
    """One run: the model, its optimizer and learning-rate schedule, and what was measured so far.

    All randomness of an epoch comes from generators seeded with the seed and the epoch (for the
    augmentation also with block and lane), so the state to be saved is the model's, the optimizer's
    and the schedule's alone.
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
        self._spaces: dict[int, np.ndarray] = {}  # of each lane, see _prepare
        self._start()

    def _start(self) -> None:
        torch.manual_seed(self.params.seed)
        self.history = []
        self.model = build_model(self.card)
        self._share_model()
        batches = math.ceil(len(self.validation.labels) / INFERENCE_BATCH)
        self._scores = shared_array((batches, 2), np.float64)  # sum of losses, hits
        self.optimizer = torch.optim.Adam(
            self._parts,
            lr=self.params.learning_rate,
            betas=(0.9, self.params.beta2),
            fused=True,
        )
        self._share_moments()
        self.schedule = self._make_schedule()

    def _share_model(self) -> None:
        """Put weights and gradients where the workers see them.

        The weights are cut into as many parts as a batch has lanes, or fewer where they are few:
        each part is updated by one process.
        """
        parameters = list(self.model.parameters())
        weights = shared_array((sum(parameter.numel() for parameter in parameters),), np.float32)
        batch = min(self.params.batch_size, len(self.train.labels))
        most = min(MAX_LANES, MAX_GRADIENTS // len(weights))
        lanes = max(1, min(most, batch // self.model.lane_images))
        self._lane_images = -(-batch // lanes)
        self._losses = shared_array((lanes,), np.float64)
        self._correct = shared_array((lanes,), np.int64)
        self._gradients = shared_array((lanes, len(weights)), np.float32)
        shapes = [tuple(parameter.shape) for parameter in parameters]
        self._shaped_gradients = [_cut(lane, shapes) for lane in self._gradients]
        for parameter, space in zip(parameters, _cut(weights, shapes), strict=True):
            space[...] = parameter.detach().numpy()
            parameter.data = torch.from_numpy(space)
        size = PART_UNIT * -(-len(weights) // (lanes * PART_UNIT))
        slices = [slice(first, first + size) for first in range(0, len(weights), size)]
        self._parts = [torch.from_numpy(weights[part]).requires_grad_() for part in slices]
        self._gradients_of_parts = [self._gradients[:, part] for part in slices]

    def _share_moments(self) -> None:
        """Put the optimizer's state, which it has or will have, where the workers see it."""
        for part in self._parts:
            state = self.optimizer.state[part]
            for name, shape in (("step", ()), ("exp_avg", part.shape), ("exp_avg_sq", part.shape)):
                space = torch.from_numpy(shared_array(shape, np.float32))
                state[name] = space.copy_(state[name]) if name in state else space

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
        processes = min(self.params.threads, len(self._gradients), available_cores())
        bar: tqdm[NoReturn]
        with (
            Workers(processes - 1, partial(self._steps_of_worker, processes)) as workers,
            tqdm(
                total=epochs * len(self.train.labels),
                initial=len(self.history) * len(self.train.labels),
                desc="train",
                unit="image",
                unit_scale=True,
            ) as bar,
        ):
            while len(self.history) < epochs:
                self.history.append(self._epoch(len(self.history) + 1, workers, bar))
                if every and len(self.history) % every == 0 and len(self.history) < epochs:
                    checkpoint.save(self._state())
                yield self.history

    def _epoch(self, epoch: int, workers: Workers, bar: "tqdm[NoReturn]") -> EpochRecord:
        count, size = len(self.train.labels), self.params.batch_size
        losses, correct = np.empty(self.steps_per_epoch), 0
        own = self._claim(0, len(workers) + 1)
        for step, halves in enumerate(self._steps(epoch, own)):
            for compute_own in halves:
                workers.start()
                compute_own()
                workers.wait()
            images = min(size, count - step * size)
            lanes = self._count_lanes(images)
            losses[step] = math.fsum(self._losses[:lanes])
            correct += int(self._correct[:lanes].sum())
            bar.update(images)
        self._check_finite(losses, epoch)
        workers.start()
        self._validate(own)
        workers.wait()
        validated = len(self.validation.labels)
        validation_loss = math.fsum(self._scores[:, 0]) / validated
        validation_accuracy = int(self._scores[:, 1].sum()) / validated
        record = EpochRecord(
            epoch=epoch,
            train_loss=math.fsum(losses) / count,
            validation_loss=validation_loss,
            train_accuracy=correct / count,
            validation_accuracy=validation_accuracy,
        )
        bar.set_postfix_str(
            f"epoch {epoch}/{self.params.epochs}, validation loss {validation_loss:.4f}, "
            f"accuracy {validation_accuracy:.2%}"
        )
        return record

    def _steps_of_worker(self, processes: int, number: int) -> Steps:
        """Yield a worker's part of every step that is left of the training."""
        torch.set_num_threads(1)  # where there were more, they did not survive the fork
        own = self._claim(number, processes)
        for epoch in range(len(self.history) + 1, self.params.epochs + 1):
            for learn, update in self._steps(epoch, own):
                yield learn
                yield update
            yield partial(self._validate, own)

    def _claim(self, number: int, processes: int) -> range:
        """Return the numbers of this process's lanes, and of the parts that it updates from now on.

        The optimizer leaves alone what has no gradient.
        """
        own = range(number, len(self._gradients), processes)
        for index, part in enumerate(self._parts):
            gradients = torch.from_numpy(self._gradients_of_parts[index])
            part.grad = gradients[0] if index in own else None
        return own

    def _steps(self, epoch: int, own: range) -> Iterator[tuple[Step, Step]]:
        """Yield the halves of each step: what computes gradients, and what updates weights by them.

        The lanes in `own` in the first, the parts of the weights in `own` in the second, which must
        not begin before all processes are done with the first.

        Every training image is in one batch, in random order. The images of a block of batches are
        made ready at once.
        """
        size = self.params.batch_size
        order = np.arange(len(self.train.labels), dtype=np.uint32)
        np.random.default_rng((self.params.seed, epoch)).shuffle(order)
        block = size * max(1, BLOCK_IMAGES // size)
        for number, first in enumerate(range(0, len(order), block)):
            chosen = order[first : first + block]
            batches = [chosen[start : start + size] for start in range(0, len(chosen), size)]
            ready = []
            for lane in own:
                part = slice(lane * self._lane_images, (lane + 1) * self._lane_images)
                indices = np.concatenate([batch[part] for batch in batches])
                seed = (self.params.seed, epoch, number, lane)
                labels = self.train.labels.numpy()[indices]
                ready.append((lane, self._prepare(lane, indices, seed), labels))
            for batch in range(len(batches)):
                part = slice(batch * self._lane_images, (batch + 1) * self._lane_images)
                pieces = [(lane, images[part], labels[part]) for lane, images, labels in ready]
                count = len(batches[batch])
                learn = partial(self._learn, pieces, 1 / count)
                yield learn, partial(self._update, own, self._count_lanes(count))

    def _prepare(self, lane: int, indices: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
        """Return these images as the model takes them, float32 `[B, C, H, W]`.

        They lie where the lane's images before them lay: fresh memory of this size costs more, page
        by page, than what is computed in it.
        """
        if lane not in self._spaces:
            self._spaces[lane] = np.empty((len(indices), *self.train.shape), np.float32)
        space, images = self._spaces[lane][: len(indices)], self.train.images.numpy()
        augmented = self.params.augmentation.enabled
        if augmented and len(indices):
            rng = np.random.default_rng(seed)
            augment(images[indices], self.params.augmentation, rng, space)
        for start in range(0, len(indices), CACHED_IMAGES):
            part = slice(start, start + CACHED_IMAGES)
            pixels = space[part] if augmented else images[indices[part]]
            normalise(pixels, self.card.data, out=space[part])
        return space

    def _learn(self, pieces: list[tuple[int, np.ndarray, np.ndarray]], share: float) -> None:
        """Compute gradients, losses and hits of lanes, from their images and labels."""
        for lane, images, labels in pieces:
            if not len(labels):
                continue  # the last batch has fewer lanes
            with np.errstate(over="ignore", invalid="ignore"):  # said once an epoch, of the loss
                self._losses[lane], self._correct[lane] = self.model.learn(
                    images,
                    labels,
                    share=share,
                    label_smoothing=self.params.label_smoothing,
                    out=self._shaped_gradients[lane],
                )

    def _update(self, own: range, lanes: int) -> None:
        """Add up the gradients of so many lanes; with them, Adam updates the parts in `own`."""
        for gradients in self._gradients_of_parts[own.start :: own.step]:
            for lane in range(1, lanes):
                gradients[0] += gradients[lane]
        self.optimizer.step()
        if self.schedule:
            self.schedule.step()

    def _count_lanes(self, images: int) -> int:
        """Return how many lanes a batch of so many images has."""
        return -(-images // self._lane_images)

    def _validate(self, own: range) -> None:
        """Sum up losses and hits in each batch of the validation split that has a number in `own`.

        `own` goes on beyond the lanes, at the same pace.
        """
        for batch in range(own.start, len(self._scores), own.step):
            part = slice(batch * INFERENCE_BATCH, (batch + 1) * INFERENCE_BATCH)
            split = replace(
                self.validation,
                images=self.validation.images[part],
                labels=self.validation.labels[part],
            )
            [(logits, labels)] = predict(self.model, split, self.card.data, INFERENCE_BATCH)
            loss = functional.cross_entropy(logits.double(), labels, reduction="sum").item()
            self._scores[batch] = loss, int((logits.argmax(1) == labels).sum())

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
        for part, moments in self.optimizer.state.items():  # torch does not compare these
            for name in ("exp_avg", "exp_avg_sq"):
                if moments[name].shape != part.shape:
                    raise ValueError(f"{name} has the shape {tuple(moments[name].shape)}")
        self._share_moments()
        self.history = [EpochRecord(**record) for record in state["history"]]
        if not 0 < len(self.history) < self.params.epochs:
            raise ValueError(f"{len(self.history)} of {self.params.epochs} epochs")


def _cut(flat: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    """Return views of one array `[values]`, one after the other, in these shapes."""
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    pieces = np.split(flat, ends[:-1])
    return [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]
