"""A change of training images of one's own: the file that `train.augmentation.custom` names."""

import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from image_pipeline import augmentations
from image_pipeline.common.errors import ParamsError, one_line
from image_pipeline.common.paths import PARAMS

Change = Callable[[Any, Any], Any]  # (images, generator) -> images
MISTAKES = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
NO_MEMORY = "allocate memory"  # of torch's allocator; told apart from a change's own mistakes


def load(name: str) -> Change:
    """Return the function `augment` of a file.

    Raises:
        ParamsError: the file cannot be imported, or has no such function.
    """
    try:
        change = getattr(import_module(f"{augmentations.__name__}.{name}"), "augment", None)
    except (ModuleNotFoundError, SyntaxError) as error:
        raise _refuse(name, f"cannot be imported: {one_line(error)}") from error
    if not callable(change):
        raise _refuse(name, "has no function `augment`")
    found: Change = change
    return found


def apply(function: Change, images: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
    """Change images float32 `[B, C, H, W]` by draws that the seed decides.

    The global generators are seeded too: torchvision's transforms draw from torch's.

    Raises:
        ParamsError: the function fails, or gives something else than such images.
    """
    # Here, so that what draws pictures does without torch where nothing is changed.
    import torch

    from image_pipeline.augmenting.randomness import seed_everything

    name = function.__module__.rpartition(".")[2]
    number = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])
    seed_everything(number)
    generator = torch.Generator().manual_seed(number)
    try:
        changed = function(torch.from_numpy(images), generator)
    except MISTAKES as error:
        if NO_MEMORY in str(error):
            raise
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).stem == name]
        where = f" (line {lines[-1]})" if lines else ""
        raise _refuse(name, f"fails: {one_line(error)}{where}") from error
    dtype, shape = getattr(changed, "dtype", None), tuple(getattr(changed, "shape", ()))
    if not isinstance(changed, torch.Tensor) or dtype != torch.float32 or shape != images.shape:
        what = (
            f"{dtype} {list(shape)}"
            if isinstance(changed, torch.Tensor)
            else type(changed).__name__
        )
        raise _refuse(name, f"made {what} of torch.float32 {list(images.shape)}")
    result: np.ndarray = changed.detach().numpy()
    return result


def _refuse(name: str, reason: str) -> ParamsError:
    file = f"src/image_pipeline/augmentations/{name}.py"
    return ParamsError(f"{PARAMS}: train.augmentation.custom: {file} {reason}")
