"""Sums of gradients in a fixed order, whatever the number of processes and hosts.

Floating-point addition is not associative, so the order of a sum is part of its result. Here it is
a balanced binary tree over a batch's micro-batches: 0 and 1, 2 and 3, then these two sums, and so
on. Partial sums lie on a stack that is merged like a binary counter. Subtrees that are pushed in
the order of their leaves give the same tree at every level: a process pushes its micro-batches,
rank 0 of a host the partial sums of its processes, and then those of all hosts.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from image_pipeline.training.host_group import HostGroup
from image_pipeline.training.local_group import LocalGroup, shared_tensor
from image_pipeline.training.microbatching import aligned_subtrees

CACHE_LINE = 16  # float32 values; no two weights share one


class Subtree(NamedTuple):
    """The sum over some leaves of the tree: a power of two of them, which divides `first`."""

    first: int
    leaves: int
    total: Tensor


def push(stack: list[Subtree], subtree: Subtree) -> None:
    """Push the next subtree and merge siblings, in the memory of the left one."""
    stack.append(subtree)
    while len(stack) > 1:
        left, right = stack[-2:]
        if left.leaves != right.leaves or left.first % (2 * left.leaves):
            return
        stack[-2:] = [Subtree(left.first, 2 * left.leaves, left.total.add_(right.total))]


class GradientReducer:
    """Sums the gradients of a model's weights over micro-batches, processes and hosts.

    The gradients of one partial sum lie in one flat array, so that an addition is one operation.
    """

    def __init__(
        self,
        weights: Sequence[nn.Parameter],
        local: LocalGroup,
        hosts: HostGroup,
        max_microbatches: int,
    ) -> None:
        """Move the weights to shared memory and allocate partial sums; before processes fork.

        Args:
            weights: that are trained, float32.
            local: the processes of this host.
            hosts: that train together.
            max_microbatches: of any batch.
        """
        self._weights, self._local, self._hosts = weights, local, hosts
        sizes = [-(-weight.numel() // CACHE_LINE) * CACHE_LINE for weight in weights]
        self._starts = np.cumsum([0, *sizes]).tolist()
        self._views: dict[int, list[Tensor]] = {}  # of flat arrays, by their address
        for weight in weights:
            weight.data = weight.detach().clone()  # dense, even where it was expanded
        for weight, view in zip(weights, self._split(self._allocate()), strict=True):
            weight.data = view.copy_(weight.detach())
        self._stack: list[Subtree] = []
        # Slot k of a process is the memory of the k-th subtree on its stack.
        counts = [max_microbatches >> halvings for halvings in range(max_microbatches.bit_length())]
        self._slots = [
            [self._allocate() for _ in range(max(self._stack_size(n, rank) for n in counts))]
            for rank in range(local.world_size)
        ]
        self._has_grad = shared_tensor((local.world_size, len(weights)), torch.bool)
        # All hosts send as many sums; those with fewer subtrees send zeros in their place.
        most = max(
            len(aligned_subtrees(hosts.partition(range(count), rank)))
            for rank in range(hosts.world_size)
            for count in counts
        )
        self._padding = [self._allocate() for _ in range(most if hosts.world_size > 1 else 0)]

    def microbatches(self, count: int, rank: int | None = None) -> range:
        """Return which of a batch's micro-batches a process of this host computes."""
        return self._local.partition(self._hosts.partition(range(count)), rank)

    def reset(self) -> None:
        """Begin a batch."""
        self._stack.clear()
        self._has_grad[self._local.rank] = False

    def push(self, microbatch: int) -> None:
        """Take the gradients that `backward` left with the weights into this process's sums."""
        slot = self._slots[self._local.rank][len(self._stack)]
        has_grad = self._has_grad[self._local.rank]
        views = self._views_of(slot)
        for number, (weight, view) in enumerate(zip(self._weights, views, strict=True)):
            if weight.grad is None:
                view.zero_()
            else:
                view.copy_(weight.grad)
                has_grad[number] = True
            weight.grad = None
        push(self._stack, Subtree(microbatch, 1, slot))

    def reduce(self, count: int) -> None:
        """On rank 0: sum over this host's processes, which have pushed their micro-batches."""
        self._stack = []
        for rank, slots in enumerate(self._slots):
            subtrees = aligned_subtrees(self.microbatches(count, rank))
            for (first, leaves), slot in zip(subtrees, slots, strict=False):
                push(self._stack, Subtree(first, leaves, slot))
        self._grad_mask = self._has_grad.any(0)

    def send_buffers(self) -> list[Tensor]:
        """Return what other hosts need: tensors of the same number and shapes on every host."""
        totals = [subtree.total for subtree in self._stack]
        return [*totals, *self._padding[len(totals) :], self._grad_mask]

    def receive(self, gathered: Sequence[Sequence[Tensor]], count: int) -> None:
        """Sum over hosts, from the `send_buffers` of each."""
        self._stack = []
        for rank, tensors in enumerate(gathered):
            subtrees = aligned_subtrees(self._hosts.partition(range(count), rank))
            for (first, leaves), total in zip(subtrees, tensors, strict=False):
                push(self._stack, Subtree(first, leaves, total))
            self._grad_mask |= tensors[-1]

    def assign_grads(self) -> None:
        """Give each weight its gradient, for the optimizer.

        A weight that took no part in any micro-batch has none, so that the optimizer skips it.
        """
        (root,) = self._stack
        gradients = self._views_of(root.total)
        for weight, gradient, has_grad in zip(
            self._weights, gradients, self._grad_mask.tolist(), strict=True
        ):
            weight.grad = gradient if has_grad else None

    def _stack_size(self, count: int, rank: int) -> int:
        """Return how many subtrees a process ever has on its stack."""
        leaves = self.microbatches(count, rank)
        sizes = [len(aligned_subtrees(leaves[:end])) + 1 for end in range(len(leaves))]
        return max(sizes, default=0)

    def _allocate(self) -> Tensor:
        return shared_tensor((self._starts[-1],), torch.float32)

    def _split(self, flat: Tensor) -> list[Tensor]:
        """Return views of a flat array in the weights' shapes and strides."""
        return [
            flat[start : start + weight.numel()].as_strided(weight.shape, weight.stride())
            for start, weight in zip(self._starts[:-1], self._weights, strict=True)
        ]

    def _views_of(self, flat: Tensor) -> list[Tensor]:
        if flat.data_ptr() not in self._views:
            self._views[flat.data_ptr()] = self._split(flat)
        return self._views[flat.data_ptr()]
