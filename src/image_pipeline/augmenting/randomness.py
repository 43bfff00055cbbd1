"""The random number streams of a training run.

Each stream is derived from the seed, its purpose and its position in the run, so that checkpoints
need not save any generator, and results do not depend on which process draws.
"""

import random
from enum import IntEnum

import numpy as np
import torch


class RngStream(IntEnum):
    """What random numbers are used for."""

    ORDER = 0  # shuffling of an epoch
    AUGMENTATION = 1
    LAYERS = 2  # dropout and the like


def fold_in(stream: RngStream, seed: int, epoch: int, *position: int) -> np.random.SeedSequence:
    """Derive the seed of a stream at a position in an epoch, such as the step.

    The position is a spawn key, not entropy: NumPy treats (1, 2) and (1, 2, 0) as equal entropy.
    """
    return np.random.SeedSequence((seed, epoch), spawn_key=(stream, *position))


def seed_everything(seed: int) -> None:
    """Seed the global generators of torch (CPU), NumPy and Python, for code that draws from them.

    Args:
        seed: 0 to 2**64 - 1.
    """
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
