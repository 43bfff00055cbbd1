"""How a batch is cut into lanes, and in which order what they give is added up.

A lane is a part of a batch that one process computes by itself, from the draw of its augmentation
to its gradients. A batch's size and its images' alone decide how many lanes it has, always a power
of two, and lanes are added up in a balanced tree: 0 and 1, 2 and 3, then these two sums, and so on.
So it changes no bit who computes which lane. Whoever holds an aligned block of lanes (2, 4, 8 ...
of them, from a multiple of that number on) hands on one sum.
"""

from collections.abc import Mapping
from math import prod

import torch

LANE_BYTES = 1 << 20  # of a lane's images as float32: enough to be worth its calls, few for a cache
MIN_GHOST_BATCH_SIZE = 8  # of a lane: what batch norm knows of the batch
SHARED_IMAGES = 128  # a batch of so many has two lanes at least, so that a second core can help

Block = tuple[int, int]  # the first lane, and how many


def count_lanes(images: int, shape: tuple[int, int, int]) -> int:
    """Return how many lanes a batch of so many images of a shape has."""
    most = max(MIN_GHOST_BATCH_SIZE, LANE_BYTES // (4 * prod(shape)))
    lanes = 2 if images >= SHARED_IMAGES else 1
    while images > lanes * most and images >= 2 * lanes * MIN_GHOST_BATCH_SIZE:
        lanes *= 2
    return lanes


def images_of(lane: int, lanes: int, images: int) -> slice:
    """Return which of a batch's images are in a lane; lanes differ by one image at most."""
    return slice(lane * images // lanes, (lane + 1) * images // lanes)


def share_of(part: int, parts: int, lanes: range) -> range:
    """Return which of some lanes a machine computes, or a process of a machine's.

    All have as many, where the number divides, and the first has the first lane in any case.
    """
    first, end = (-(-number * len(lanes) // parts) for number in (part, part + 1))
    return lanes[first:end]


def blocks_of(lanes: range) -> list[Block]:
    """Return as few aligned blocks as make up these lanes."""
    first, blocks = lanes.start, []
    while first < lanes.stop:
        count = first & -first or 1 << lanes.stop.bit_length()  # the largest that may begin here
        while first + count > lanes.stop:
            count //= 2
        blocks.append((first, count))
        first += count
    return blocks


def add_up(sums: Mapping[Block, torch.Tensor], block: Block) -> torch.Tensor:
    """Add up the sums of the blocks that make up one, in the tree's order; in the first's place.

    Args:
        sums: of each block, all of one shape.
        block: the whole: all lanes, or what a machine hands on.
    """

    def total(first: int, count: int) -> torch.Tensor:
        if (first, count) in sums:
            return sums[first, count]
        half = count // 2
        return total(first, half).add_(total(first + half, half))

    return total(*block)
