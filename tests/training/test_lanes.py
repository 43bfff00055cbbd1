"""Lanes: a batch alone decides them, and whoever holds them adds them up in one order."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from image_pipeline.training.lanes import Block, add_up, blocks_of, count_lanes, images_of, share_of

MNIST, CIFAR, PHOTOGRAPH = (1, 28, 28), (3, 32, 32), (3, 224, 224)


@pytest.mark.parametrize(
    ("images", "shape", "lanes"),
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
def test_a_batch_decides_its_lanes(images: int, shape: tuple[int, int, int], lanes: int) -> None:
    assert count_lanes(images, shape) == lanes


@pytest.mark.parametrize(("images", "lanes"), [(512, 8), (13, 4), (8, 8), (3, 4)])
def test_lanes_part_a_batch_evenly(images: int, lanes: int) -> None:
    slices = [images_of(lane, lanes, images) for lane in range(lanes)]
    assert slices[0].start == 0
    assert slices[-1].stop == images
    assert all(before.stop == after.start for before, after in pairwise(slices))
    sizes = [part.stop - part.start for part in slices]
    assert max(sizes) - min(sizes) <= 1


def blocks(part: int, parts: int, lanes: int) -> list[Block]:
    return blocks_of(share_of(part, parts, range(lanes)))


def test_blocks_by_hand() -> None:
    assert [blocks(process, 2, 8) for process in range(2)] == [[(0, 4)], [(4, 4)]]
    assert [blocks(process, 3, 8) for process in range(3)] == [
        [(0, 2), (2, 1)],
        [(3, 1), (4, 2)],
        [(6, 2)],
    ]
    assert [blocks(process, 3, 2) for process in range(3)] == [[(0, 1)], [(1, 1)], []]
    assert blocks_of(range(5, 16)) == [(5, 1), (6, 2), (8, 8)]


def tree(lanes: list[Tensor]) -> Tensor:
    """Add up a power of two of lanes, neighbours first."""
    if len(lanes) == 1:
        return lanes[0]
    return tree([one + other for one, other in zip(lanes[::2], lanes[1::2], strict=True)])


@pytest.mark.parametrize("lanes", [1, 2, 8, 64])
@pytest.mark.parametrize("machines", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_whoever_holds_the_lanes_the_sum_is_the_trees(
    lanes: int, machines: int, processes: int
) -> None:
    """Machines share the lanes, and processes those of a machine, which hands on few sums."""
    gradients = list(torch.randn(lanes, 50, generator=torch.Generator().manual_seed(0)))
    told: dict[Block, Tensor] = {}
    for machine in range(machines):
        here = share_of(machine, machines, range(lanes))
        sums = {}
        for process in range(processes):
            for first, count in blocks_of(share_of(process, processes, here)):
                assert first % count == 0
                sums[first, count] = tree(gradients[first : first + count]).clone()
        assert sum(count for _, count in sums) == len(here)
        told |= {block: add_up(sums, block) for block in blocks_of(here)}
    assert sum(count for _, count in told) == lanes
    if machines & machines - 1 == 0:
        assert len(told) == min(machines, lanes)  # a sum for each machine, where they share evenly
    assert torch.equal(add_up(told, (0, lanes)), tree(gradients))
