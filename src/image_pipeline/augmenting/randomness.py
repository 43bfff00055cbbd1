"""Where all random numbers of a training run come from.

Each use has a stream of its own, named by what it is for and where in the run it is: nothing needs
to be saved to go on, and nothing depends on who computes what.
"""

import random
from enum import IntEnum

import numpy as np
import torch


class Use(IntEnum):
    """What random numbers are for."""

    ORDER = 0  # of an epoch's images
    AUGMENTATION = 1
    LAYERS = 2  # dropout and the like


def stream(use: Use, seed: int, epoch: int, *place: int) -> np.random.SeedSequence:
    """Return the source of what is drawn for `use` at a place of an epoch (such as step and lane).

    A spawn key, not more entropy: NumPy takes (1, 2) and (1, 2, 0) for the same entropy.
    """
    return np.random.SeedSequence((seed, epoch), spawn_key=(use, *place))


def seed_everything(seed: int) -> None:
    """Seed the global generators of torch (CPU), NumPy and Python, for code that draws from them.

    Args:
        seed: 0 to 2**64 - 1.
    """
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
