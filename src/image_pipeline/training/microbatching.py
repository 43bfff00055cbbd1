"""How a batch is split into micro-batches, and these among processes.

A micro-batch is the part of a batch that one process computes by itself, from augmentation to
gradients (a "ghost batch" for batch norm). Their number depends on the sizes of the batch and of
its images alone and is always a power of two, so results do not depend on where a micro-batch is
computed: gradients are summed over them in a fixed tree (see `tree_reduction`).
"""

from math import prod

MICROBATCH_BYTES = 1 << 20  # of images as float32: large enough to be worth a call, fits in a cache
MIN_GHOST_BATCH_SIZE = 8  # images of a micro-batch, for the statistics of batch norm
TWO_MICROBATCHES_FROM = 128  # images of a batch, so that a second core can help


def num_microbatches(batch_size: int, shape: tuple[int, int, int]) -> int:
    """Return how many micro-batches a batch of images `[C, H, W]` has: a power of two."""
    largest = max(MIN_GHOST_BATCH_SIZE, MICROBATCH_BYTES // (4 * prod(shape)))
    count = 2 if batch_size >= TWO_MICROBATCHES_FROM else 1
    while batch_size > count * largest and batch_size >= 2 * count * MIN_GHOST_BATCH_SIZE:
        count *= 2
    return count


def microbatch_slice(index: int, count: int, batch_size: int) -> slice:
    """Return which images of a batch are in a micro-batch; sizes differ by one image at most."""
    return slice(index * batch_size // count, (index + 1) * batch_size // count)


def aligned_subtrees(leaves: range) -> list[tuple[int, int]]:
    """Return the fewest subtrees (first leaf, number of leaves) that cover consecutive leaves.

    A subtree of 2, 4, 8 ... leaves begins at a multiple of that number.
    """
    first, subtrees = leaves.start, []
    while first < leaves.stop:
        count = first & -first or 1 << leaves.stop.bit_length()  # the largest that may begin here
        while first + count > leaves.stop:
            count //= 2
        subtrees.append((first, count))
        first += count
    return subtrees
