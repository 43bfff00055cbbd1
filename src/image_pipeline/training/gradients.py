"""Weights in memory that all processes share, and the sums of their gradients over the lanes.

Each process adds up what its own lanes give, block by block, in the order of the tree (see
`lanes`); the process that holds the optimizer adds up the blocks of its machine, and then those of
all machines. All gradients of one sum lie in one flat array, so that adding two sums is one
operation.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from image_pipeline.training.lanes import Block, add_up, blocks_of, share_of
from image_pipeline.training.workers import shared_tensor

CACHE_LINE = 16  # float32 values; no two weights share one


class Gradients:
    """The gradients of some weights, which it moves to shared memory."""

    def __init__(self, weights: Sequence[nn.Parameter]) -> None:
        self._weights = weights
        sizes = [-(-weight.numel() // CACHE_LINE) * CACHE_LINE for weight in weights]
        self._starts = np.cumsum([0, *sizes]).tolist()
        for weight in weights:
            weight.data = weight.detach().clone()  # dense, where it was expanded
        self._sums: list[list[Tensor]] = []  # by process, of each of its blocks
        self._given = torch.zeros(0)  # by process and weight, whether a lane gave a gradient
        self._totals: dict[Block, Tensor] = {}  # of this machine, and then of the others
        self._has_gradient = torch.zeros(0)  # by weight, whether any lane gave one
        self._own_sums: dict[int, Tensor] = {}  # not yet handed on, by depth in the tree
        self._views: dict[int, list[Tensor]] = {}  # of sums, by their address
        for weight, space in zip(weights, self._split(self._room()), strict=True):
            space.copy_(weight.detach())
            weight.data = space

    def make_room(self, processes: int, lanes: int, machine: int = 0, machines: int = 1) -> None:
        """Make room for what each process hands on, for batches of so many lanes at most."""
        counts = [lanes >> halvings for halvings in range(lanes.bit_length())]
        self._machine, self._machines, self._processes = machine, machines, processes
        self._sums = [
            [self._room() for _ in range(max(len(self.blocks(process, count)) for count in counts))]
            for process in range(processes)
        ]
        self._given = shared_tensor((processes, len(self._weights)), torch.bool)
        self._own_sums, self._views = {}, {}
        # All machines tell as many sums, and those with fewer blocks send nothing in their place.
        most = max(
            len(blocks_of(share_of(each, machines, range(count))))
            for each in range(machines)
            for count in counts
        )
        self._nothing = [torch.zeros_like(self._room()) for _ in range(most if machines > 1 else 0)]

    @property
    def processes(self) -> int:
        """How many processes there is room for."""
        return len(self._sums)

    def blocks(self, process: int, lanes: int) -> list[Block]:
        """Return which of a batch's lanes a process computes."""
        here = share_of(self._machine, self._machines, range(lanes))
        return blocks_of(share_of(process, self._processes, here))

    def collect(self, process: int, lanes: int, learn: Callable[[int], None]) -> None:
        """Have a process's lanes computed, and hand on the sum of each of its blocks.

        Args:
            process: which.
            lanes: how many the batch has.
            learn: leaves a lane's gradients with the weights, as `backward` does.
        """
        given = self._given[process].zero_()
        blocks = self.blocks(process, lanes)
        for block, total in zip(blocks, self._sums[process], strict=False):
            self._add_lanes(block, total, given, learn, depth=0)

    def sum_up(self, lanes: int) -> None:
        """Add up what this machine's processes hand on of a batch, in blocks of its lanes."""
        sums = {
            block: total
            for process, totals in enumerate(self._sums)
            for block, total in zip(self.blocks(process, lanes), totals, strict=False)
        }
        here = share_of(self._machine, self._machines, range(lanes))
        self._totals = {block: add_up(sums, block) for block in blocks_of(here)}
        self._has_gradient = self._given.any(0)

    def to_tell(self) -> list[Tensor]:
        """Return what other machines need of this one: always as many tensors, of the same form."""
        totals = list(self._totals.values())
        return [*totals, *self._nothing[len(totals) :], self._has_gradient]

    def hear(self, machine: int, lanes: int, told: Sequence[Tensor]) -> None:
        """Take what another machine has to tell."""
        theirs = blocks_of(share_of(machine, self._machines, range(lanes)))
        self._totals |= zip(theirs, told, strict=False)
        self._has_gradient |= told[-1]

    def hand_over(self, lanes: int) -> None:
        """Give each weight the sum of its gradients over a batch's lanes, for the optimizer.

        One that takes no part in any lane has none, so that the optimizer leaves it alone.
        """
        gradients = self._views_of(add_up(self._totals, (0, lanes)))
        given = self._has_gradient.tolist()
        for weight, gradient, has_one in zip(self._weights, gradients, given, strict=True):
            weight.grad = gradient if has_one else None

    def _add_lanes(
        self, block: Block, out: Tensor, given: Tensor, learn: Callable[[int], None], depth: int
    ) -> None:
        """Write the sum of a block's gradients to `out`, in the order of the tree."""
        first, count = block
        if count == 1:
            learn(first)
            self._take(out, given)
            return
        half = count // 2
        self._add_lanes((first, half), out, given, learn, depth + 1)
        if depth not in self._own_sums:
            self._own_sums[depth] = torch.zeros_like(out)
        self._add_lanes((first + half, half), self._own_sums[depth], given, learn, depth + 1)
        out += self._own_sums[depth]

    def _take(self, out: Tensor, given: Tensor) -> None:
        """Take the gradients from the weights, and note which there are."""
        views = self._views_of(out)
        for number, (weight, gradient) in enumerate(zip(self._weights, views, strict=True)):
            if weight.grad is None:
                gradient.zero_()
            else:
                gradient.copy_(weight.grad)
                given[number] = True
            weight.grad = None

    def _room(self) -> Tensor:
        return shared_tensor((self._starts[-1],), torch.float32)

    def _split(self, flat: Tensor) -> list[Tensor]:
        """Return views of `flat` in the shapes of the weights, and in their order of axes."""
        return [
            flat[start : start + weight.numel()].as_strided(weight.shape, weight.stride())
            for start, weight in zip(self._starts[:-1], self._weights, strict=True)
        ]

    def _views_of(self, flat: Tensor) -> list[Tensor]:
        if flat.data_ptr() not in self._views:
            self._views[flat.data_ptr()] = self._split(flat)
        return self._views[flat.data_ptr()]
