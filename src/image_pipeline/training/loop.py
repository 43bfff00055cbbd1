"""The training loop: on several cores, and yet the same to the bit.

A batch is cut into lanes, by its size alone (see `lanes`). One process does all that is done to a
lane's images, from the draw of their augmentation to the gradients, as any loop in PyTorch does it.
The lanes' gradients are added up in an order of their own, and one process holds the optimizer and
updates the weights, which lie in memory that all processes share. So the result depends neither on
how many processes there are nor on who is faster.
"""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from image_pipeline.common.cores import DEVICE, available_cores
from image_pipeline.common.errors import DivergenceError, NetworkError, ParamsError
from image_pipeline.common.params import MachineParams, TrainParams
from image_pipeline.common.paths import PARAMS
from image_pipeline.modeling import networks
from image_pipeline.modeling.inference import images_at_once, normalise, predict
from image_pipeline.modeling.model_card import ModelCard
from image_pipeline.modeling.model_file import tensors_of
from image_pipeline.numerics.portability import PortabilityCheck
from image_pipeline.tensors.tensor_files import Split
from image_pipeline.training import custom
from image_pipeline.training.augmentation import augment
from image_pipeline.training.checkpoint import CheckpointFile
from image_pipeline.training.history import EpochRecord
from image_pipeline.training.lanes import Block, add_up, blocks_of, count_lanes, images_of
from image_pipeline.training.optimizer import build_optimizer, build_schedule, cycled_momentum
from image_pipeline.training.randomness import Use, seed_everything, stream
from image_pipeline.training.workers import Steps, Workers, shared_array, shared_tensor

BLOCK_BYTES = (
    1 << 24
)  # of images made ready at once as float32: enough to amortise, few for a cache
CACHED_BYTES = 1 << 20  # of images normalised at once, still in the cache from first to last step
INFERENCE_BATCH = 1000
CACHE_LINE = 16  # float32 values; no two weights share one


@dataclass(frozen=True)
class Batch:
    """What a step needs: how many images, in how many lanes, and what the lanes are made of.

    Attributes:
        pieces: by lane, its images, labels and seed in this batch and then in those after it.
    """

    images: int
    lanes: int
    pieces: Mapping[int, Iterator[tuple[Tensor, Tensor, int]]]


class Training:
    """One run: the model, its optimizer and learning-rate schedule, and what was measured so far.

    All random numbers of an epoch come from streams named by seed, epoch and place, so the state to
    be saved is the model's, the optimizer's and the schedule's alone.
    """

    def __init__(
        self, train: Split, validation: Split, params: TrainParams, machine: MachineParams
    ) -> None:
        """Make the network and all that trains it.

        Raises:
            ParamsError: the network or the optimizer refuses its options.
            NetworkError: the network's file is not what it should be.
        """
        self.train = train
        self.validation = validation
        self.params = params
        self.machine = machine
        self.custom = custom.load(params.augmentation.custom)
        self.unproved: dict[str, str] = {}  # operations of unknown portability, and their layers
        self.batches = _batch_sizes(len(train.labels), params.batch_size)
        self._checked = params.numerics == "fast"  # whether the first step was, see _watch
        self._spaces: dict[int, np.ndarray] = {}  # of each lane, see _prepare
        self._start()
        self.card = ModelCard(
            network=params.model.name,
            source=networks.source_hash(params.model.name),
            input_shape=train.shape,
            data=train.description,
            augmentation=params.augmentation,
            options=params.model.options,
            first_layer=networks.first_layer(self.model, train.shape),
        )

    def _start(self) -> None:
        self.history: list[EpochRecord] = []
        name, options = self.params.model.name, self.params.model.options
        classes = len(self.train.description.class_names)
        seed_everything(self.params.seed)
        try:
            self.model = networks.build(name, options, self.train.shape, classes).to(DEVICE)
        except NetworkError as error:
            if str(error).startswith("train."):
                raise ParamsError(f"{PARAMS}: {error}") from error
            raise
        self._share_model()
        self.optimizer = build_optimizer(self.params, self.weights)
        steps = self.params.epochs * len(self.batches)
        self.schedule = build_schedule(self.params, self.optimizer, steps)

    def _share_model(self) -> None:
        """Put weights, sums of gradients, buffers and figures where the workers see them."""
        self.weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        if not self.weights:
            raise ParamsError(
                f"{PARAMS}: train.model.name: {self.params.model.name} has no weights to train"
            )
        sizes = [-(-weight.numel() // CACHE_LINE) * CACHE_LINE for weight in self.weights]
        self._starts = np.cumsum([0, *sizes]).tolist()
        shared = self._shared((self._starts[-1],), torch.float32)
        for weight in self.weights:
            weight.data = weight.detach().clone()  # dense, where it was expanded
        for weight, space in zip(self.weights, self._as_weights(shared), strict=True):
            space.copy_(weight.detach())
            weight.data = space
        # All lanes begin a step with the same buffers, and what the first made of them stays.
        self._buffers = {
            name: self._shared(tuple(buffer.shape), buffer.dtype).copy_(buffer)
            for name, buffer in self.model.named_buffers()
        }
        self.lanes = count_lanes(max(self.batches), self.train.shape)
        self._losses = shared_array((self.lanes,), np.float64)
        self._correct = shared_array((self.lanes,), np.int64)
        size = images_at_once(self.train.shape, INFERENCE_BATCH)
        scored = math.ceil(len(self.validation.labels) / size)
        self._scores = shared_array((scored, 2), np.float64)  # sum of losses, hits

    @staticmethod
    def _shared(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if DEVICE == "cpu":
            return shared_tensor(shape, dtype)
        return torch.zeros(shape, dtype=dtype, device=DEVICE)  # of the one process that uses it

    def _as_weights(self, flat: Tensor) -> list[Tensor]:
        """Return views of `flat` in the shapes of the weights, and in their order of axes."""
        return [
            flat[start : start + weight.numel()].as_strided(weight.shape, weight.stride())
            for start, weight in zip(self._starts[:-1], self.weights, strict=True)
        ]

    def run(self, checkpoint: CheckpointFile) -> Iterator[list[EpochRecord]]:
        """Train to the last epoch, from the checkpoint where there is one.

        Yields:
            The history after each epoch.

        Raises:
            DivergenceError: a loss is not finite.
        """
        self._go_on_from(checkpoint)
        self._say_what_the_schedule_changes()
        every, epochs, images = self.machine.checkpoint_every, self.params.epochs, sum(self.batches)
        processes = self._share_sums()
        bar: tqdm[NoReturn]
        with (
            Workers(processes - 1, self._steps_of_worker) as workers,
            tqdm(
                total=epochs * images,
                initial=len(self.history) * images,
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

    def _share_sums(self) -> int:
        """Make room for what each process hands on, a sum for each of its blocks of lanes.

        Returns:
            How many processes there are to be.
        """
        alone = DEVICE != "cpu" or sys.platform != "linux"  # only Linux forks safely
        processes = 1 if alone else min(self.machine.cores, self.lanes, available_cores())
        self._sums: list[list[Tensor]] = []
        for process in range(processes):
            counts = (self.lanes >> halvings for halvings in range(self.lanes.bit_length()))
            blocks = max(len(blocks_of(process, processes, lanes)) for lanes in counts)
            room = [self._shared((self._starts[-1],), torch.float32) for _ in range(blocks)]
            self._sums.append(room)
        self._own_sums: dict[int, Tensor] = {}  # not yet handed on, by depth in the tree
        self._views: dict[int, list[Tensor]] = {}  # of sums, by their address
        return processes

    def _say_what_the_schedule_changes(self) -> None:
        if momentum := cycled_momentum(self.params, self.optimizer):
            low, high = self.params.base_momentum, self.params.max_momentum
            tqdm.write(
                f"train: one_cycle changes the learning rate and {self.params.optimizer.name}'s "
                f"{momentum}, from {high:g} to {low:g} and back (train.cycle_momentum)"
            )

    def _epoch(self, epoch: int, workers: Workers, bar: "tqdm[NoReturn]") -> EpochRecord:
        losses, correct = np.empty(len(self.batches)), 0
        for step, batch in enumerate(self._steps(epoch, 0)):
            with self._watch(step == 0):
                workers.start()
                self._learn(batch, 0)
                workers.wait()
                self._update(batch.lanes)
            losses[step] = math.fsum(self._losses[: batch.lanes])
            correct += int(self._correct[: batch.lanes].sum())
            bar.update(batch.images)
        self._check_finite(losses, epoch)
        with self._watch(True):
            workers.start()
            self._validate(0)
            workers.wait()
        self._checked = True
        count, validated = sum(self.batches), len(self.validation.labels)
        record = EpochRecord(
            epoch=epoch,
            train_loss=math.fsum(losses) / count,
            validation_loss=math.fsum(self._scores[:, 0]) / validated,
            train_accuracy=correct / count,
            validation_accuracy=int(self._scores[:, 1].sum()) / validated,
        )
        bar.set_postfix_str(
            f"epoch {epoch}/{self.params.epochs}, validation loss {record.validation_loss:.4f}, "
            f"accuracy {record.validation_accuracy:.2%}"
        )
        return record

    @contextmanager
    def _watch(self, wanted: bool) -> Iterator[None]:
        """Hold what is computed against the list of portable operations, in this run's first epoch.

        Its first step and its validation; what there was is the same in all others.
        """
        if self._checked or not wanted:
            yield
            return
        with PortabilityCheck() as check:
            yield
        for told in self.unproved:
            check.unproved.pop(told, None)
        for line in check.warnings():
            tqdm.write(line, file=sys.stderr)
        self.unproved |= check.unproved

    def _steps_of_worker(self, process: int) -> Steps:
        """Yield a worker's part of every step that is left of the training."""
        torch.set_num_threads(1)  # where there were more, they did not survive the fork
        for epoch in range(len(self.history) + 1, self.params.epochs + 1):
            for batch in self._steps(epoch, process):
                yield partial(self._learn, batch, process)
            yield partial(self._validate, process)

    def _steps(self, epoch: int, process: int) -> Iterator[Batch]:
        """Yield the batches of an epoch, with the images of the lanes that a process computes.

        Every training image is in one batch, in random order.
        """
        order = np.arange(len(self.train.labels), dtype=np.uint32)
        np.random.default_rng(stream(Use.ORDER, self.params.seed, epoch)).shuffle(order)
        self.model.train()
        end = 0
        for number, (size, batches) in enumerate(self._blocks()):
            start, end = end, end + size * batches
            indices = order[start:end].reshape(batches, size)
            lanes = count_lanes(size, self.train.shape)
            pieces = {
                lane: self._pieces(epoch, number, lane, indices[:, images_of(lane, lanes, size)])
                for first, count in blocks_of(process, len(self._sums), lanes)
                for lane in range(first, first + count)
            }
            for _ in range(batches):
                yield Batch(size, lanes, pieces)

    def _blocks(self) -> Iterator[tuple[int, int]]:
        """Yield the size and number of the batches whose images are made ready at once."""
        size, left = self.batches[0], self.batches.count(self.batches[0])
        together = max(1, BLOCK_BYTES // (4 * size * math.prod(self.train.shape)))
        while left:
            yield size, min(together, left)
            left -= min(together, left)
        if self.batches[-1] != size:
            yield self.batches[-1], 1

    def _pieces(
        self, epoch: int, block: int, lane: int, indices: np.ndarray
    ) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Yield a lane's images, labels and seed for the layers, batch by batch of a block.

        Args:
            epoch: from 1.
            block: which of the epoch's.
            lane: which of the batches'.
            indices: of the lane's training images, `[batches, images]`.
        """
        batches, count = indices.shape
        place = (self.params.seed, epoch, block, lane)
        # A block of one batch may be large: its lanes are then made ready one in another's place.
        images = self._prepare(indices.ravel(), place, lane if batches > 1 else -1)
        labels = self.train.labels[torch.from_numpy(indices.astype(np.int64))]
        seeds = stream(Use.LAYERS, *place).generate_state(batches, np.uint64)
        for batch in range(batches):
            part = images[batch * count : (batch + 1) * count]
            yield torch.from_numpy(part), labels[batch], int(seeds[batch])

    def _prepare(self, indices: np.ndarray, place: Sequence[int], where: int) -> np.ndarray:
        """Return these images as the model takes them, float32 `[B, C, H, W]`.

        They lie where those of the same `where` lay before: fresh memory of this size costs more,
        page by page, than what is computed in it.
        """
        if len(self._spaces.get(where, ())) < len(indices):
            self._spaces[where] = np.empty((len(indices), *self.train.shape), np.float32)
        space, images = self._spaces[where][: len(indices)], self.train.images.numpy()
        settings, mean = self.params.augmentation, self.train.description.mean
        if settings.enabled and len(indices):
            source = stream(Use.AUGMENTATION, *place)
            augment(images[indices], settings, np.random.default_rng(source), space, mean)
            if settings.custom != "none":
                own_seed = tuple(source.generate_state(4).tolist())
                space[...] = custom.apply(self.custom, space, own_seed)
        at_once = max(1, CACHED_BYTES // space[:1].nbytes)
        for start in range(0, len(indices), at_once):
            part = slice(start, start + at_once)
            pixels = space[part] if settings.enabled else images[indices[part]]
            normalise(pixels, self.train.description, out=space[part])
        return space

    def _learn(self, batch: Batch, process: int) -> None:
        """Compute the gradients of a process's lanes, and hand on the sum of each of its blocks."""
        blocks = blocks_of(process, len(self._sums), batch.lanes)
        with np.errstate(all="ignore"):  # what is not finite is told once an epoch, of the loss
            for block, total in zip(blocks, self._sums[process], strict=False):
                self._add_lanes(batch, block, total, depth=0)

    def _add_lanes(self, batch: Batch, block: Block, out: Tensor, depth: int) -> None:
        """Write the sum of a block's gradients to `out`, in the order of the tree."""
        first, count = block
        if count == 1:
            self._learn_lane(batch, first, out)
            return
        half = count // 2
        self._add_lanes(batch, (first, half), out, depth + 1)
        if depth not in self._own_sums:
            self._own_sums[depth] = torch.zeros_like(out)
        self._add_lanes(batch, (first + half, half), self._own_sums[depth], depth + 1)
        out += self._own_sums[depth]

    def _learn_lane(self, batch: Batch, lane: int, out: Tensor) -> None:
        """Compute a lane's loss, hits and gradients, as any training loop does."""
        images, labels, seed = next(batch.pieces[lane])
        images, labels = images.to(DEVICE), labels.to(DEVICE)
        self._take_buffers()
        seed_everything(seed)
        logits = self.model(images)
        loss = functional.cross_entropy(
            logits, labels, label_smoothing=self.params.label_smoothing, reduction="sum"
        )
        (loss / batch.images).backward()
        for weight, gradient in zip(self.weights, self._views_of(out), strict=True):
            if weight.grad is None:  # it takes no part
                gradient.zero_()
            else:
                gradient.copy_(weight.grad)
            weight.grad = None
        self._losses[lane] = loss.item()
        self._correct[lane] = int((logits.argmax(1) == labels).sum())
        if lane == 0:
            self._next_buffers = {
                name: buffer.detach().clone() for name, buffer in self.model.named_buffers()
            }

    def _update(self, lanes: int) -> None:
        """Take a step by the gradients of all lanes; what lane 0 made of the buffers stays."""
        sums = {
            block: total
            for process, totals in enumerate(self._sums)
            for block, total in zip(
                blocks_of(process, len(self._sums), lanes), totals, strict=False
            )
        }
        gradients = self._views_of(add_up(sums, lanes))
        for weight, gradient in zip(self.weights, gradients, strict=True):
            weight.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.schedule:
            self.schedule.step()
        for name, buffer in self._buffers.items():
            buffer.copy_(self._next_buffers[name])

    def _views_of(self, flat: Tensor) -> list[Tensor]:
        if flat.data_ptr() not in self._views:
            self._views[flat.data_ptr()] = self._as_weights(flat)
        return self._views[flat.data_ptr()]

    def _take_buffers(self) -> None:
        """Give this process's network the buffers that all begin a step with."""
        if self._buffers:
            for name, buffer in self.model.named_buffers():
                buffer.copy_(self._buffers[name])

    def _validate(self, process: int) -> None:
        """Sum up losses and hits in a process's batches of the validation split."""
        self._take_buffers()
        size = images_at_once(self.validation.shape, INFERENCE_BATCH)
        for batch in range(process, len(self._scores), len(self._sums)):
            part = slice(batch * size, (batch + 1) * size)
            split = replace(
                self.validation,
                images=self.validation.images[part],
                labels=self.validation.labels[part],
            )
            [(logits, labels)] = predict(self.model, split, self.train.description, size)
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
        self._take_buffers()
        return {
            "model": tensors_of(self.model),
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
        for name, tensor in tensors_of(self.model).items():
            if state["model"][name].shape != tensor.shape:
                raise ValueError(f"{name} has the shape {tuple(state['model'][name].shape)}")
            tensor.copy_(state["model"][name])
        for name, buffer in self.model.named_buffers():
            self._buffers[name].copy_(buffer)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule:
            self.schedule.load_state_dict(state["schedule"])
        self.history = [EpochRecord(**record) for record in state["history"]]
        if not 0 < len(self.history) < self.params.epochs:
            raise ValueError(f"{len(self.history)} of {self.params.epochs} epochs")


def _batch_sizes(images: int, size: int) -> list[int]:
    """Return how many images each batch of an epoch has.

    A single one that is left over joins the last batch: batch norm wants more than one.
    """
    sizes = [min(size, images - start) for start in range(0, images, size)]
    if len(sizes) > 1 and sizes[-1] == 1 < size:
        sizes[-2:] = [size + 1]
    return sizes
