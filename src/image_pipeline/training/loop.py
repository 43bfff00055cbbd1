"""The training loop: on several cores, and yet the same to the bit.

A batch is cut into lanes, by its size alone (see `lanes`). One process does all that is done to a
lane's images, from the draw of their augmentation to the gradients, as any loop in PyTorch does it.
The lanes' gradients are added up in an order of their own, and one process holds the optimizer and
updates the weights, which lie in memory that all processes share. So the result depends neither on
how many processes there are nor on who is faster.
"""

import hashlib
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from typing import Any, NoReturn

import numpy as np
import torch
from torch.nn import functional
from tqdm import tqdm

from image_pipeline.augmenting.randomness import seed_everything
from image_pipeline.common.cores import available_cores
from image_pipeline.common.errors import DivergenceError, NetworkError, ParamsError
from image_pipeline.common.params import MachineParams
from image_pipeline.common.paths import PARAMS
from image_pipeline.distributed.exchange import Exchange
from image_pipeline.modeling import networks
from image_pipeline.modeling.inference import BATCH_IMAGES, max_batch_size, predict
from image_pipeline.modeling.model_card import ModelCard
from image_pipeline.modeling.model_file import tensors_of
from image_pipeline.modeling.ood import TrainingStatistics
from image_pipeline.numerics.portability import PortabilityCheck
from image_pipeline.tensors.tensor_files import Split
from image_pipeline.training.batches import Batch, Batches
from image_pipeline.training.checkpoint import CheckpointFile
from image_pipeline.training.gradients import Gradients
from image_pipeline.training.history import EpochRecord
from image_pipeline.training.lanes import count_lanes, share_of
from image_pipeline.training.optimizer import build_optimizer, build_schedule, cycled_momentum
from image_pipeline.training.params import TrainParams
from image_pipeline.training.workers import Steps, Workers, shared_array, shared_tensor


class Training:
    """One run: the model, its optimizer and learning-rate schedule, and what was measured so far.

    All random numbers of an epoch come from streams named by seed, epoch and place, so the state to
    be saved is the model's, the optimizer's and the schedule's alone.
    """

    def __init__(
        self,
        train: Split,
        validation: Split,
        params: TrainParams,
        machine: MachineParams,
        exchange: Exchange | None = None,
    ) -> None:
        """Make the network and all that trains it.

        Args:
            train: the images to learn from.
            validation: the images to be scored after every epoch.
            params: what decides the result.
            machine: what does not.
            exchange: with the other machines, where there are any.

        Raises:
            ParamsError: the network or the optimizer refuses its options.
            NetworkError: the network's file is not what it should be.
        """
        self.train = train
        self.validation = validation
        self.params = params
        self.machine = machine
        self.exchange = exchange or Exchange()
        self.batches = Batches(train, params)
        self.unproved: dict[str, str] = {}  # operations of unknown portability, and their layers
        self.typical: TrainingStatistics | None = (
            None  # known when the training is done, as the card's limits
        )
        self._checked = params.numerics == "fast"  # whether the first step was, see _watch
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
            self.model = networks.build(name, options, self.train.shape, classes)
        except NetworkError as error:
            if str(error).startswith("train."):
                raise ParamsError(f"{PARAMS}: {error}") from error
            raise
        self._share_model()
        self.optimizer = build_optimizer(self.params, self.weights)
        steps = self.params.epochs * len(self.batches.sizes)
        self.schedule = build_schedule(self.params, self.optimizer, steps)

    def _share_model(self) -> None:
        """Put weights, buffers and figures where the workers see them."""
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        if not weights:
            raise ParamsError(
                f"{PARAMS}: train.model.name: {self.params.model.name} has no weights to train"
            )
        self.weights = weights
        self.gradients = Gradients(weights)
        # All lanes begin a step with the same buffers, and what the first made of them stays.
        self._buffers = {
            name: shared_tensor(tuple(buffer.shape), buffer.dtype).copy_(buffer)
            for name, buffer in self.model.named_buffers()
        }
        self.lanes = count_lanes(max(self.batches.sizes), self.train.shape)
        self._losses = shared_array((self.lanes,), np.float64)
        self._correct = shared_array((self.lanes,), np.int64)
        size = max_batch_size(self.train.shape, BATCH_IMAGES)
        scored = math.ceil(len(self.validation.labels) / size)
        self._scores = shared_array((scored, 2), np.float64)  # sum of losses, hits
        self._largest_logits = shared_array((len(self.validation.labels),), np.float64)

    def run(self, checkpoint: CheckpointFile) -> Iterator[list[EpochRecord]]:
        """Train to the last epoch, from the checkpoint where there is one; complete the card.

        Yields:
            The history after each epoch.

        Raises:
            DivergenceError: a loss is not finite.
        """
        self._go_on_from(checkpoint)
        self._say_what_the_schedule_changes()
        every, epochs = self.machine.checkpoint_every, self.params.epochs
        images, processes = sum(self.batches.sizes), self.count_processes()
        here = self.exchange
        self.gradients.make_room(processes, self.lanes, here.machine, here.machines)
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
            here.meet()  # after the workers were forked: what connects machines has threads
            self._agree()
            while len(self.history) < epochs:
                self.history.append(self._epoch(len(self.history) + 1, workers, bar))
                if every and len(self.history) % every == 0 and len(self.history) < epochs:
                    checkpoint.save(self._state())
                yield self.history
        self._learn_to_doubt()

    def count_processes(self) -> int:
        """Return how many processes compute: as many as there are cores and lanes for."""
        if sys.platform != "linux":  # only Linux forks safely
            return 1
        lanes = len(share_of(0, self.exchange.machines, range(self.lanes)))
        return min(self.machine.cores, lanes, available_cores())

    def _say_what_the_schedule_changes(self) -> None:
        if momentum := cycled_momentum(self.params, self.optimizer):
            low, high = self.params.base_momentum, self.params.max_momentum
            tqdm.write(
                f"train: one_cycle changes the learning rate and {self.params.optimizer.name}'s "
                f"{momentum}, from {high:g} to {low:g} and back (train.cycle_momentum)"
            )

    def _epoch(self, epoch: int, workers: Workers, bar: "tqdm[NoReturn]") -> EpochRecord:
        losses, correct = np.empty(len(self.batches.sizes)), 0
        for step, batch in enumerate(self._steps(epoch, 0)):
            with self._watch(step == 0):
                workers.start()
                self._learn(batch, 0)
                workers.wait()
                self.gradients.sum_up(batch.lanes)
            if self.exchange.machines > 1:
                self._share_step(batch.lanes, step)
            with self._watch(step == 0):
                self._update(batch.lanes)
            losses[step] = math.fsum(self._losses[: batch.lanes])
            correct += int(self._correct[: batch.lanes].sum())
            bar.update(batch.images)
        self._check_finite(losses, epoch)
        with self._watch(True):
            workers.start()
            self._validate(0)
            workers.wait()
        if self.exchange.machines > 1:
            self._share_scores()
            self._agree()
        self._checked = True
        count, validated = sum(self.batches.sizes), len(self.validation.labels)
        record = EpochRecord(
            epoch=epoch,
            train_loss=math.fsum(losses) / count,
            validation_loss=math.fsum(self._scores[:, 0]) / validated,
            train_accuracy=correct / count,
            validation_accuracy=int(self._scores[:, 1].sum()) / validated,
        )
        bar.set_postfix_str(
            f"epoch {epoch}/{self.params.epochs}, validation loss {record.validation_loss:.4f}, "
            f"accuracy {record.validation_accuracy:.2%}{self.exchange.traffic}"
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
        """Yield the batches of an epoch, with the images of the lanes that a process computes."""
        self.model.train()
        yield from self.batches.epoch(epoch, partial(self.gradients.blocks, process))

    def _learn(self, batch: Batch, process: int) -> None:
        """Compute the gradients of a process's lanes."""
        with np.errstate(all="ignore"):  # what is not finite is told once an epoch, of the loss
            self.gradients.collect(process, batch.lanes, partial(self._learn_lane, batch))

    def _learn_lane(self, batch: Batch, lane: int) -> None:
        """Compute a lane's loss, hits and gradients, as any training loop does."""
        images, labels, seed = next(batch.pieces[lane])
        self._take_buffers()
        seed_everything(seed)
        logits = self.model(images)
        loss = functional.cross_entropy(
            logits, labels, label_smoothing=self.params.label_smoothing, reduction="sum"
        )
        (loss / batch.images).backward()
        self._losses[lane] = loss.item()
        self._correct[lane] = int((logits.argmax(1) == labels).sum())
        if lane == 0:
            self._next_buffers = {
                name: buffer.detach().clone() for name, buffer in self.model.named_buffers()
            }

    def _update(self, lanes: int) -> None:
        """Take a step by the gradients of all lanes; what lane 0 made of the buffers stays."""
        self.gradients.hand_over(lanes)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.schedule:
            self.schedule.step()
        for name, buffer in self._buffers.items():
            buffer.copy_(self._next_buffers[name])

    def _share_step(self, lanes: int, step: int) -> None:
        """Tell the other machines what the lanes of this one gave, and hear what theirs did."""
        here = self.exchange
        figures = [torch.from_numpy(self._losses), torch.from_numpy(self._correct)]
        buffers = self._buffers if here.machine else self._next_buffers
        told = here.gather(
            [*figures, *buffers.values(), *self.gradients.to_tell()], patient=step == 0
        )
        for machine in range(here.machines):
            if machine != here.machine:
                part = share_of(machine, here.machines, range(lanes))
                for own, theirs in zip(figures, told[machine], strict=False):
                    own[part.start : part.stop] = theirs[part.start : part.stop]
                gradients = told[machine][len(figures) + len(buffers) :]
                self.gradients.hear(machine, lanes, gradients)
        self._next_buffers = dict(zip(self._buffers, told[0][len(figures) :], strict=False))

    def _share_scores(self) -> None:
        """Tell the others what this machine's part of the validation gave, and hear the rest."""
        scores = [torch.from_numpy(self._scores), torch.from_numpy(self._largest_logits)]
        size = max_batch_size(self.validation.shape, BATCH_IMAGES)
        for machine, told in enumerate(self.exchange.gather(scores, patient=True)):
            for batch in range(machine, len(self._scores), self.exchange.machines):
                part = slice(batch * size, (batch + 1) * size)
                scores[0][batch], scores[1][part] = told[0][batch], told[1][part]

    def _agree(self) -> None:
        """Make sure that this epoch begins, or ends, with the same weights on all machines."""
        if self.exchange.machines > 1:
            digest = hashlib.sha256()
            for weight in (*self.weights, *self._buffers.values()):
                digest.update(weight.detach().flatten().view(torch.uint8).numpy().data)
            self.exchange.agree(digest.digest(), len(self.history))

    def _take_buffers(self) -> None:
        """Give this process's network the buffers that all begin a step with."""
        if self._buffers:
            for name, buffer in self.model.named_buffers():
                buffer.copy_(self._buffers[name])

    def _validate(self, process: int) -> None:
        """Score a process's batches of the validation split: losses, hits and largest logits."""
        self._take_buffers()
        size = max_batch_size(self.validation.shape, BATCH_IMAGES)
        machine, machines = self.exchange.machine, self.exchange.machines
        first, apart = machine + machines * process, machines * self.gradients.processes
        for batch in range(first, len(self._scores), apart):
            part = slice(batch * size, (batch + 1) * size)
            split = replace(
                self.validation,
                images=self.validation.images[part],
                labels=self.validation.labels[part],
            )
            [(logits, labels)] = predict(self.model, split, self.train.description, size)
            loss = functional.cross_entropy(logits.double(), labels, reduction="sum").item()
            self._scores[batch] = loss, int((logits.argmax(1) == labels).sum())
            self._largest_logits[part] = logits.amax(1).numpy()

    def _learn_to_doubt(self) -> None:
        """Complete the card: what images look like, and how far validation images are from it."""
        size = max_batch_size(self.train.shape, BATCH_IMAGES)
        self.typical = TrainingStatistics.of_images(
            part.numpy() for part in self.train.images.split(size)
        )
        distances = [
            self.typical.distances(part.numpy()) for part in self.validation.images.split(size)
        ]
        limits = doubt.fit_thresholds(self._largest_logits, np.concatenate(distances))
        self.card = replace(self.card, doubt=limits)

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
