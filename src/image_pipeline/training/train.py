"""The training loop, which every process runs (SPMD), with the same result on any number of them.

A batch is split into micro-batches by its size alone (see `microbatching`). Each process runs the
forward and backward passes of its share. Their gradients are summed in a fixed tree (see
`tree_reduction`), and rank 0 takes the optimizer's step on weights in memory that all processes of
the host share. Several hosts gather each other's sums and take the same step each.
"""

import math
import os
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from image_pipeline.augmenting.randomness import seed_everything
from image_pipeline.common.cores import available_cores
from image_pipeline.common.errors import PipelineError
from image_pipeline.common.params import MachineParams
from image_pipeline.common.paths import PARAMS
from image_pipeline.modeling import networks
from image_pipeline.modeling.inference import BATCH_IMAGES, max_batch_size, predict
from image_pipeline.modeling.model_card import ModelCard
from image_pipeline.modeling.options import bind_choice
from image_pipeline.numerics import facts
from image_pipeline.numerics.portability import PortabilityCheck
from image_pipeline.tensors.tensor_files import Split
from image_pipeline.training.checkpoint import CheckpointFile
from image_pipeline.training.features import FeatureLoader, FrozenFeatures, head_inputs
from image_pipeline.training.history import EpochRecord
from image_pipeline.training.host_group import HostGroup
from image_pipeline.training.host_sync import all_gather_scores, all_gather_step, assert_in_sync
from image_pipeline.training.initial_weights import InitialWeights
from image_pipeline.training.loader import MicroBatch, TrainLoader
from image_pipeline.training.local_group import LocalGroup, shared_array
from image_pipeline.training.losses import LOSSES
from image_pipeline.training.params import TrainParams
from image_pipeline.training.schedules import momentum_note
from image_pipeline.training.state import TrainState
from image_pipeline.training.tree_reduction import GradientReducer


class Trainer:
    """One training run.

    Attributes:
        state: the model and all else that changes.
        card: the model's metadata.
        unverified_ops: operations not verified to be portable, and the layers they are in.
        x86_only_ops: those verified on x86-64 only.
    """

    def __init__(
        self,
        train: Split,
        validation: Split,
        params: TrainParams,
        machine: MachineParams,
        hosts: HostGroup | None = None,
        initial_weights: InitialWeights | None = None,
    ) -> None:
        """Build the model and all that trains it.

        Args:
            train: the images to learn from.
            validation: the images to be scored after every epoch.
            params: what decides the result.
            machine: what does not.
            hosts: that train together; None for this one alone.
            initial_weights: to start from, which also say how images are normalised; None:
                random ones, and the training split's own mean and standard deviation.

        Raises:
            ParamsError: the network, loss, optimizer or schedule refuses its options.
            DataError: the initial weights cannot be read, or are another network's.
            NetworkError: the network's file is not what it should be.
        """
        self._weights_note = initial_weights.note(train) if initial_weights else ""
        if initial_weights:
            train, validation = map(initial_weights.normalise_like, (train, validation))
        self.train_split, self.validation_split = train, validation
        self.params, self.machine = params, machine
        self.hosts = hosts or HostGroup()
        self.loader = TrainLoader(train, params)
        self.loss = bind_choice(f"{PARAMS}: train.loss", params.loss, LOSSES)
        steps = params.epochs * len(self.loader.batch_sizes)
        self.state = TrainState(
            params, train.shape, len(train.info.class_names), steps, initial_weights
        )
        self.card = ModelCard(
            network=params.model.name,
            source=networks.source_hash(params.model.name),
            input_shape=train.shape,
            data=train.info,
            augmentation=params.augmentation.model_dump(exclude_defaults=True),
            options=params.model.options,
            first_layer=networks.first_layer(self.state.model, train.shape),
            weights=initial_weights.provenance if initial_weights else None,
        )
        self.unverified_ops: dict[str, str] = {}
        self.x86_only_ops: dict[str, str] = {}
        self._fast = params.numerics == "fast"
        self._checked = self._fast  # whether operations were, see check_portability

    def train(self, checkpoint: CheckpointFile) -> Iterator[list[EpochRecord]]:
        """Train to the last epoch, from the checkpoint where there is one.

        Yields:
            The history after each epoch.

        Raises:
            PipelineError: a loss is not finite.
        """
        self.state.resume(checkpoint)
        self.features = self.frozen_features(checkpoint.folder)
        loaders = [self.loader]
        if self.features:
            self.feature_loader = FeatureLoader(self.features.train_split(), self.params)
            loaders.append(self.feature_loader)
        for note in (momentum_note(self.state.lr_schedule), self._weights_note):
            if note:
                tqdm.write(f"train: {note}")
        self.local = LocalGroup(self.count_processes())
        most = max(loader.max_microbatches for loader in loaders)
        self.reducer = GradientReducer(self.state.weights, self.local, self.hosts, most)
        # Shared with the processes that are forked below, as the weights are.
        self.losses = shared_array((most,), np.float64)
        self.correct = shared_array((most,), np.int64)
        self.validation_batch_size = max_batch_size(self.train_split.shape, BATCH_IMAGES)
        batches = math.ceil(len(self.validation_split.labels) / self.validation_batch_size)
        self.scores = shared_array((batches, 2), np.float64)  # sum of losses, correct
        with self.local.fork(lambda: deque(self.run_epochs(checkpoint), maxlen=0)):
            yield from self.run_epochs(checkpoint)

    def run_epochs(self, checkpoint: CheckpointFile) -> Iterator[list[EpochRecord]]:
        """Run the epochs that are left; every process does, and rank 0 keeps the history."""
        epochs, images = self.params.epochs, sum(self.loader.batch_sizes)
        done, every = len(self.state.history), self.machine.checkpoint_every
        if self.local.rank == 0:
            self.hosts.init_process_group()  # after the fork, as it starts threads
            assert_in_sync(self.hosts, self.state)
            if not done:
                self.state.receipt.begin()
        if self.features:
            self.features.compute(self.local, self.hosts, self.check_portability)
        bar: tqdm[NoReturn]
        with tqdm(
            total=epochs * images,
            initial=done * images,
            desc="train",
            unit="image",
            unit_scale=True,
            disable=self.local.rank > 0,
        ) as bar:
            for epoch in range(done + 1, epochs + 1):
                train_loss, train_accuracy = self.train_epoch(epoch, bar)
                validation_loss, validation_accuracy = self.validate(epoch)
                if self.local.rank > 0:
                    continue
                assert_in_sync(self.hosts, self.state)
                # What the backbone does when it begins to learn has not run so far.
                self._checked = self._fast or epoch != self.state.transfer.frozen_epochs
                self.state.history.append(
                    EpochRecord(
                        epoch, train_loss, validation_loss, train_accuracy, validation_accuracy
                    )
                )
                self.state.receipt.record_epoch(self.state.digest())
                bar.set_postfix_str(
                    f"epoch {epoch}/{epochs}, validation loss {validation_loss:.4f}, "
                    f"accuracy {validation_accuracy:.2%}{self.hosts.traffic}"
                )
                if every and epoch % every == 0 and epoch < epochs:
                    self.state.save(checkpoint)
                yield self.state.history

    @np.errstate(all="ignore")  # a loss that is not finite is reported once an epoch
    def train_epoch(self, epoch: int, bar: "tqdm[NoReturn]") -> tuple[float, float]:
        """Take a step for each batch; return the mean training loss and the accuracy."""
        self.state.transfer.begin_epoch(epoch)
        loader, model = self.loader, self.state.model
        if features := self.features_of(epoch):
            loader, model = self.feature_loader, features.head
        receipt = self.state.receipt
        losses, correct = [], 0
        for step, batch in enumerate(loader.epoch(epoch, self.reducer.microbatches)):
            first = epoch == 1 and step == 0  # which goes into the receipt
            self.reducer.reset()
            for microbatch in batch.microbatches:
                if step == microbatch.index == 0:
                    self.check_microbatch(model, microbatch, batch.size)
                wanted = first and microbatch.index == 0
                with receipt.record_forward(microbatch) if wanted else nullcontext():
                    self.forward_backward(model, microbatch, batch.size)
                self.reducer.push(microbatch.index)
            self.local.gather()
            if self.local.rank == 0:
                self.reducer.reduce(batch.num_microbatches)
            if self.local.rank == 0:
                count, metrics = batch.num_microbatches, (self.losses, self.correct)
                # Not checked: what sends tensors computes nothing.
                all_gather_step(
                    self.hosts, self.reducer, self.state, metrics, count, first=step == 0
                )
                self.reducer.assign_grads()
                if first:
                    receipt.record_backward(torch.from_numpy(self.losses[:count]))
                with self.check_portability(step == 0):
                    self.state.step()
                if first:
                    self.state.reset_buffers()
                    receipt.record_update()
                losses.append(math.fsum(self.losses[:count]))
                correct += int(self.correct[:count].sum())
            self.local.broadcast()
            bar.update(batch.size)
        self._check_finite(losses, epoch)
        images = sum(self.loader.batch_sizes)
        return math.fsum(losses) / images, correct / images

    def check_microbatch(self, model: nn.Module, microbatch: MicroBatch, batch_size: int) -> None:
        """Check the operations of a micro-batch in a pass of its own, whose gradients do not count.

        While operations are looked up, autograd may leave sums of gradients in another memory
        format, in which the next layer's last bits differ.
        """
        if not self._checked:
            with self.check_portability(True):
                self.forward_backward(model, microbatch, batch_size)
            model.zero_grad()

    def forward_backward(self, model: nn.Module, microbatch: MicroBatch, batch_size: int) -> None:
        """Leave a micro-batch's part of the gradients of the batch's mean loss with the weights."""
        self.state.reset_buffers()
        seed_everything(microbatch.seed)
        logits = model(microbatch.images)
        loss = self.loss(logits, microbatch.labels)
        (loss / batch_size).backward()
        self.losses[microbatch.index] = loss.item()
        self.correct[microbatch.index] = int((logits.argmax(1) == microbatch.labels).sum())
        if microbatch.index == 0:
            self.state.keep_buffers()

    def validate(self, epoch: int) -> tuple[float, float]:
        """Score the validation split; return its mean cross-entropy and accuracy, on rank 0.

        The loss is cross-entropy whatever is trained with, so that runs can be compared.
        """
        size, split = self.validation_batch_size, self.validation_split
        batches = range(len(self.scores))
        with self.check_portability(True):
            self.state.reset_buffers()
            for batch in self.local.partition(self.hosts.partition(batches)):
                part = slice(batch * size, (batch + 1) * size)
                if features := self.features_of(epoch):
                    logits, labels = features.predict(batch), split.labels[part]
                else:
                    one = replace(split, images=split.images[part], labels=split.labels[part])
                    [(logits, labels)] = predict(self.state.model, one, self.train_split.info, size)
                loss = functional.cross_entropy(logits.double(), labels, reduction="sum").item()
                self.scores[batch] = loss, int((logits.argmax(1) == labels).sum())
            self.local.gather()
        if self.local.rank == 0:
            all_gather_scores(self.hosts, self.scores)
        images = len(split.labels)
        return math.fsum(self.scores[:, 0]) / images, int(self.scores[:, 1].sum()) / images

    def frozen_features(self, folder: Path) -> FrozenFeatures | None:
        """Return what the head learns from while the backbone is frozen, if that never changes.

        So without augmentation, and where the network returns what the head does.

        Args:
            folder: of the checkpoints.
        """
        model, head, train = self.state.model, self.state.transfer.head, self.train_split
        frozen = self.state.transfer.frozen(len(self.state.history) + 1)
        if head is None or not frozen or self.params.augmentation.enabled:
            return None
        features = head_inputs(model, head, train.images[:1].numpy(), train.info)
        if features is None:
            return None
        # DVC sets this to the project's own folder, also in a run on its queue, which has another.
        project = Path(os.environ.get("DVC_ROOT", ""))
        settings = {
            "model": self.params.effective()["model"],
            "numerics": self.params.numerics,
            "facts": facts(),
        }
        splits, count = (train, self.validation_split), features.shape[1]
        return FrozenFeatures(model, head, splits, count, project / folder / "features", settings)

    def features_of(self, epoch: int) -> FrozenFeatures | None:
        """Return the features, if an epoch learns from them."""
        return self.features if self.state.transfer.frozen(epoch) else None

    @contextmanager
    def check_portability(self, wanted: bool) -> Iterator[None]:
        """Check on rank 0 that all operations are on the list of portable ones.

        In this run's first epoch alone, its first step and its validation: others have the same.
        """
        if self._checked or not wanted or self.local.rank > 0:
            yield
            return
        with PortabilityCheck() as check:
            yield
        for known in self.unverified_ops:
            check.unverified_ops.pop(known, None)
        for line in check.warnings():
            tqdm.write(line, file=sys.stderr)
        self.unverified_ops |= check.unverified_ops
        self.x86_only_ops |= check.x86_only_ops

    def count_processes(self) -> int:
        """Return how many processes compute: as many as there are cores and micro-batches for."""
        if sys.platform != "linux":  # only Linux forks safely
            return 1
        most = len(self.hosts.partition(range(self.loader.max_microbatches), 0))  # of any host
        return min(self.machine.cores, most, available_cores())

    def _check_finite(self, losses: list[float], epoch: int) -> None:
        for step, loss in enumerate(losses):
            if not math.isfinite(loss):
                raise PipelineError(
                    f"the loss is {loss} at step {step + 1} of epoch {epoch}; no model is written. "
                    f"Lower train.learning_rate (now {self.params.learning_rate})"
                )
