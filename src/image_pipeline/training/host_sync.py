"""What several hosts exchange: sums of gradients in a step, scores after an epoch."""

from collections.abc import Sequence

import numpy as np
import torch

from image_pipeline.common.errors import HostError
from image_pipeline.training.host_group import LONG_TIMEOUT, HostGroup
from image_pipeline.training.state import TrainState
from image_pipeline.training.tree_reduction import GradientReducer


def all_gather_step(
    hosts: HostGroup,
    reducer: GradientReducer,
    state: TrainState,
    metrics: Sequence[np.ndarray],
    count: int,
    *,
    first: bool,
) -> None:
    """Give every host the gradients and metrics of all micro-batches, and rank 0's buffers.

    Args:
        hosts: that train together.
        reducer: which has summed this host's gradients.
        state: whose new buffers become rank 0's.
        metrics: `[microbatches]` each, of which this host has filled in its share.
        count: micro-batches of the batch.
        first: whether this is an epoch's first step, for which other hosts may take longer.
    """
    if hosts.world_size == 1:
        return
    own = [torch.from_numpy(values) for values in metrics]
    tensors = [*own, *state.new_buffers.values()]
    gathered = hosts.all_gather(
        [*tensors, *reducer.send_buffers()], timeout=LONG_TIMEOUT if first else None
    )
    for rank, theirs in enumerate(gathered):
        share = hosts.partition(range(count), rank)
        for values, others in zip(own, theirs, strict=False):
            values[share.start : share.stop] = others[share.start : share.stop]
    buffers = gathered[0][len(own) : len(tensors)]
    state.new_buffers = dict(zip(state.new_buffers, buffers, strict=True))
    reducer.receive([theirs[len(tensors) :] for theirs in gathered], count)


def all_gather_scores(hosts: HostGroup, scores: np.ndarray) -> None:
    """Give every host the scores `[batches, 2]` of all validation batches."""
    if hosts.world_size == 1:
        return
    own = torch.from_numpy(scores)
    for rank, (theirs,) in enumerate(hosts.all_gather([own], timeout=LONG_TIMEOUT)):
        share = hosts.partition(range(len(scores)), rank)
        own[share.start : share.stop] = theirs[share.start : share.stop]


def assert_in_sync(hosts: HostGroup, state: TrainState) -> None:
    """Check that all hosts have the same weights and buffers.

    Raises:
        HostError: one has others than rank 0.
    """
    if hosts.world_size == 1:
        return
    digest = torch.frombuffer(bytearray(state.digest()), dtype=torch.uint8)
    gathered = hosts.all_gather([digest], timeout=LONG_TIMEOUT)
    different = sum(not torch.equal(theirs, gathered[0][0]) for [theirs] in gathered)
    if different:
        raise HostError(
            f"after epoch {len(state.history)}, {different} of {hosts.world_size} machines have "
            "other weights than the coordinator: an operation of this network has other bits on "
            "their processors, or their memory is faulty. Train on machines of one kind"
        )
