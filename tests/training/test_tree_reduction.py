"""Micro-batches: a batch alone decides them, and wherever they are computed, one order of sums."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from image_pipeline.training.microbatching import (
    aligned_subtrees,
    microbatch_slice,
    num_microbatches,
)
from image_pipeline.training.process_group import ProcessGroup
from image_pipeline.training.tree_reduction import Subtree, push

MNIST, CIFAR, PHOTOGRAPH = (1, 28, 28), (3, 32, 32), (3, 224, 224)


@pytest.mark.parametrize(
    ("images", "shape", "count"),
    [
        (1, MNIST, 1),
        (127, MNIST, 1),
        (128, MNIST, 2),  # so that a second core can help
        (512, MNIST, 2),  # 2 x 256 images of 3,136 bytes: 0.8 MB each
        (1024, MNIST, 4),
        (512, CIFAR, 8),  # 85 images of 12,288 bytes make a megabyte
        (64, PHOTOGRAPH, 8),  # 8 images at least, though one fills half a megabyte
        (15, PHOTOGRAPH, 1),
        (1_000_000, PHOTOGRAPH, 65536),
    ],
)
def test_a_batch_decides_its_microbatches(
    images: int, shape: tuple[int, int, int], count: int
) -> None:
    assert num_microbatches(images, shape) == count


@pytest.mark.parametrize(("images", "count"), [(512, 8), (13, 4), (8, 8), (3, 4)])
def test_microbatches_split_a_batch_evenly(images: int, count: int) -> None:
    slices = [microbatch_slice(index, count, images) for index in range(count)]
    assert slices[0].start == 0
    assert slices[-1].stop == images
    assert all(before.stop == after.start for before, after in pairwise(slices))
    sizes = [part.stop - part.start for part in slices]
    assert max(sizes) - min(sizes) <= 1


def partition(items: range, rank: int, world_size: int) -> range:
    group = ProcessGroup()
    group.world_size = world_size
    return group.partition(items, rank)


def tree(leaves: list[Tensor]) -> Tensor:
    """Add up a power of two of leaves, neighbours first."""
    if len(leaves) == 1:
        return leaves[0]
    return tree([one + other for one, other in zip(leaves[::2], leaves[1::2], strict=True)])


@pytest.mark.parametrize("leaves", [1, 2, 8, 64])
@pytest.mark.parametrize("hosts", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_the_sum_is_the_trees_wherever_the_leaves_are(
    leaves: int, hosts: int, processes: int
) -> None:
    """Processes push leaves, hosts their processes' subtrees, and all hosts' make the whole."""
    gradients = list(torch.randn(leaves, 50, generator=torch.Generator().manual_seed(0)))
    whole: list[Subtree] = []
    pushed = 0
    for host in range(hosts):
        here = partition(range(leaves), host, hosts)
        of_host: list[Subtree] = []
        for process in range(processes):
            own = partition(here, process, processes)
            stack: list[Subtree] = []
            for leaf in own:
                push(stack, Subtree(leaf, 1, gradients[leaf].clone()))
            assert [(first, count) for first, count, _ in stack] == aligned_subtrees(own)
            for subtree in stack:
                push(of_host, subtree)
        assert [(first, count) for first, count, _ in of_host] == aligned_subtrees(here)
        pushed += len(of_host)
        for subtree in of_host:
            push(whole, subtree)
    if hosts & hosts - 1 == 0:
        assert pushed == min(hosts, leaves)  # one sum of each host, where the shares are equal
    [(first, count, total)] = whole
    assert (first, count) == (0, leaves)
    assert torch.equal(total, tree(gradients))
