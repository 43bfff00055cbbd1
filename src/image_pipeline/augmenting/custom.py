"""The custom augmentation: `augment` in the file that `train.augmentation.custom` names."""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from image_pipeline import augmentations
from image_pipeline.common.errors import ParamsError, innermost_line, one_line
from image_pipeline.common.paths import PARAMS

AugmentFunction = Callable[[Any, Any], Any]  # (images, generator) -> images
USER_ERRORS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
NO_MEMORY = "allocate memory"  # in the message of torch's allocator: not the function's mistake


def load(name: str) -> AugmentFunction:
    """Import the function `augment` of a file.

    Raises:
        ParamsError: the file cannot be imported, or has no such function.
    """
    try:
        function = getattr(import_module(f"{augmentations.__name__}.{name}"), "augment", None)
    except (ModuleNotFoundError, SyntaxError) as error:
        raise _error(name, f"cannot be imported: {one_line(error)}") from error
    if not callable(function):
        raise _error(name, "has no function `augment`")
    augment: AugmentFunction = function
    return augment


def apply(function: AugmentFunction, images: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
    """Augment images float32 `[B, C, H, W]` with generators seeded by `seed`.

    The global generators are seeded too, as torchvision's transforms draw from torch's.

    Raises:
        ParamsError: the function fails, or does not return images of that dtype and shape.
    """
    # Here, so that the plot stage imports torch only if it needs it.
    import torch

    from image_pipeline.augmenting.randomness import seed_everything

    name = function.__module__.rpartition(".")[2]
    number = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])
    seed_everything(number)
    generator = torch.Generator().manual_seed(number)
    try:
        augmented = function(torch.from_numpy(images), generator)
    except USER_ERRORS as error:
        if NO_MEMORY in str(error):
            raise
        line = innermost_line(error, Path(str(sys.modules[function.__module__].__file__)))
        where = f" (line {line})" if line else ""
        raise _error(name, f"fails: {one_line(error)}{where}") from error
    dtype, shape = getattr(augmented, "dtype", None), tuple(getattr(augmented, "shape", ()))
    if not isinstance(augmented, torch.Tensor) or dtype != torch.float32 or shape != images.shape:
        returned = f"{dtype} {list(shape)}" if dtype else type(augmented).__name__
        raise _error(name, f"returned {returned}, not torch.float32 {list(images.shape)}")
    result: np.ndarray = augmented.detach().numpy()
    return result


def _error(name: str, reason: str) -> ParamsError:
    file = f"src/image_pipeline/augmentations/{name}.py"
    return ParamsError(f"{PARAMS}: train.augmentation.custom: {file} {reason}")
