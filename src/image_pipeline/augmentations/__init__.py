"""Changes of training images of one's own: a file each, named by `train.augmentation.custom`."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from image_pipeline.errors import ParamsError
from image_pipeline.paths import PARAMS

Change = Callable[[Any, Any], Any]  # (images, generator) -> images


def load(name: str) -> Change:
    """Return the function `augment` of a file."""
    change = getattr(import_module(f"{__name__}.{name}"), "augment", None)
    if not callable(change):
        raise ParamsError(
            f"{PARAMS}: train.augmentation.custom: src/image_pipeline/augmentations/{name}.py has "
            "no function `augment`"
        )
    found: Change = change
    return found


def apply(function: Change, images: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
    """Change images float32 `[B, C, H, W]` by draws that the seed decides."""
    import torch

    from image_pipeline.randomness import seed_everything

    number = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])
    seed_everything(number)
    generator = torch.Generator().manual_seed(number)
    changed: np.ndarray = function(torch.from_numpy(images), generator).numpy()
    if changed.shape != images.shape or changed.dtype != np.float32:
        raise ParamsError(
            f"{PARAMS}: train.augmentation.custom: it made {changed.dtype} {changed.shape} of "
            f"float32 {images.shape}"
        )
    return changed
